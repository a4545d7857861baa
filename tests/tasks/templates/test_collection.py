"""Files of templates: promptsource's form is read, and nothing else that YAML can do."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtailor.core.errors import InputError
from lmtailor.tasks.templates.collection import TemplateCollection, read_templates
from lmtailor.tasks.templates.template import TemplateError

Read = Callable[[str], TemplateCollection]

PROMPTSOURCE = """
dataset: films
templates:
  11d1c505: !Template
    answer_choices: bad ||| good
    id: 11d1c505
    jinja: '{{sentence}}

      Was that {{"good"}}? ||| {{ answer_choices[label] }}'
    metadata: &shared !TemplateMetadata
      choices_in_prompt: true
      metrics: [Accuracy]
    name: asked
    reference: ''
  22d1c505: !Template
    jinja: '{{ sentence.__class__ }}'
    metadata: *shared
    name: broken
  plain:
    jinja: "{{ sentence }} ||| {{ answer_choices[label] }}"
    answer_choices: ["don't", 'a\\b']
  again:
    name: asked
    jinja: "other"
"""


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(text: str) -> TemplateCollection:
        (tmp_path / "t.yaml").write_text(text)
        return read_templates(tmp_path / "t.yaml")

    return read


def test_a_file_of_promptsource(read: Read) -> None:
    found = read(PROMPTSOURCE)
    assert list(found.templates) == ["asked", "plain", "asked (again)"]
    asked = found.template("asked").render({"sentence": "Fine.", "label": 1})
    assert asked.parts == ("Fine.\nWas that good?", "good")
    assert found.template("asked").metadata == {"choices_in_prompt": True, "metrics": ["Accuracy"]}
    assert found.template("plain").render({"sentence": "x", "label": 0}).choices == ("don't", "a\\b")


def test_one_that_is_not_allowed_is_kept_with_its_reason(read: Read) -> None:
    found = read(PROMPTSOURCE)
    assert list(found.refused) == ["broken"]
    with pytest.raises(TemplateError, match="'broken', line 1: it asks for '__class__'"):
        found.template("broken")
    with pytest.raises(InputError, match=r"no template 'askd'\. Did you mean asked"):
        found.template("askd")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("templates: !!python/object/apply:os.system ['true']", "could not determine a constructor for the tag"),
        ("templates: !!python/name:os.system", "could not determine a constructor"),
        ("templates:\n  a: !!python/object:builtins.dict {}", "could not determine a constructor"),
        ("templates: !Other {}", "could not determine a constructor"),
        ("templates:\n  a: !Template [1]", "a table is needed here"),
        ("a: &a {x: 1}\ntemplates:\n  b:\n    <<: *a\n    jinja: x", "merge keys"),
        ("templates:\n  a: {jinja: x}\n  a: {jinja: y}", "'a' stands twice"),
        ("templates: [", "cannot be read as YAML"),
        ("templates: " + "[" * 5000, "cannot be read as YAML"),
        ("templates: {}", "has no templates"),
        ("jinja: x", "has no templates"),
        ("- a", "has no templates"),
        ("", "is empty"),
    ],
    ids=lambda value: value[:30],
)
def test_what_a_file_may_not_be(read: Read, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read(text)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("jinja: 3", "has no text `jinja`"),
        ("name: x", "has no text `jinja`"),
        ("{jinja: x, answer_choices: [yes, no]}", "Quote words such as yes and no"),
        ("{jinja: x, answer_choices: ['a|||b']}", "one text or a list of texts"),
        ("{jinja: x, answers: 'a'}", "unknown key 'answers'. Did you mean answer_choices"),
        ("{jinja: x, metadata: 3}", "must be a table"),
    ],
)
def test_a_wrong_entry_is_refused_by_itself(read: Read, entry: str, told: str) -> None:
    text = entry if entry.startswith("{") else "{" + entry + "}"
    found = read(f"templates:\n  good: {{jinja: x}}\n  bad: {text}\n")
    assert list(found.templates) == ["good"]
    with pytest.raises(TemplateError, match=told):
        found.template(next(iter(found.refused)))


def test_aliases_of_aliases_are_shared(read: Read) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    found = read("\n".join([*lines, "templates:", "  t: {jinja: x, metadata: {big: *a59}}"]))
    assert list(found.templates) == ["t"]
    assert list(read("templates:\n  t: {jinja: x, metadata: {big: &b [*b]}}").templates) == ["t"]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_templates(tmp_path / "none.yaml")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [*"templates: jinja: a: - [ ] { } & * ! !!python/object !Template << : , ' \" | > # x \n \n".split(" "), "\n  "]
        ),
        max_size=25,
    )
)
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(" ".join(words))
    with contextlib.suppress(InputError):
        assert read_templates(path).source == str(path)
