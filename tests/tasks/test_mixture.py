"""Mixtures: what their examples are, what is held out, and files that contradict themselves, named with file and line."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from lmtailor.core.errors import InputError
from lmtailor.tasks.mixture import Mixture, load_mixture

SENTIMENT = """
kind = "classification"
labels = ["neg", "pos"]
[files]
train = "sentiment.jsonl"
dev = "sentiment.jsonl"
[columns]
text = "s"
[verbalizer]
neg = ["bad"]
pos = ["great"]
[[patterns]]
name = "was"
text = "{s} It was {mask} ."
"""
SUMMARY = """
kind = "generation"
[files]
train = "summary.jsonl"
[columns]
text = "doc"
label = "sum"
"""
NLI = """
kind = "classification"
[files]
train = "nli.jsonl"
test = "nli.jsonl"
[columns]
text = ["p", "h"]
"""
YAML = """
templates:
  shout:
    jinja: "{{ s | upper }} Good? ||| {{ answer_choices[label] }}"
    answer_choices: "No ||| Yes"
  asks:
    jinja: "{% if label == 1 %}A good one:{% else %}A bad one:{% endif %} ||| {{ s }}"
  some:
    jinja: "{% if s != 's0' %}{{ s }}?{% endif %} ||| {{ ['no', 'yes'][label] }}"
  lacks:
    jinja: "{{ sentence }} ||| {{ ['no', 'yes'][label] }}"
"""
NLI_LIST = """
[templates.nli]
[[templates.nli.patterns]]
name = "true"
text = "{p} So {h} Right?"
words = { no = ["no"], yes = ["yes"] }
[[templates.nli.patterns]]
name = "so"
text = "{p} {mask}!"
words = { no = ["never"], yes = ["so"] }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = {
        "sentiment": [{"s": f"s{i}", "label": ("neg", "pos")[i % 2]} for i in range(20)],
        "summary": [{"doc": f"d{i} one two three", "sum": f"short {i}"} for i in range(5)],
        "nli": [{"p": f"p{i}", "h": f"h{i}", "label": ("no", "yes")[i % 2]} for i in range(6)],
    }
    for name, own in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, own)), encoding="utf-8")
    for name, card in {"sentiment": SENTIMENT, "summary": SUMMARY, "nli": NLI}.items():
        (tmp_path / f"{name}.toml").write_text(card, encoding="utf-8")
    (tmp_path / "sentiment.yaml").write_text(YAML, encoding="utf-8")
    return tmp_path


def mixture(folder: Path, text: str, *overrides: str, name: str = "mix.toml") -> Mixture:
    (folder / name).write_text(text, encoding="utf-8")
    return load_mixture(folder / name, overrides=overrides)


BOTH = (
    """
hold_out = ["inference"]
[[tasks]]
card = "sentiment.toml"
templates = ["reviews"]
[[tasks]]
card = "summary.toml"
[[tasks]]
card = "nli.toml"
cluster = "inference"
templates = ["nli"]
[templates.reviews]
file = "sentiment.yaml"
use = ["shout", "some"]
[[templates.reviews.patterns]]
text = "{s} I call it {mask}."
"""
    + NLI_LIST
)


def test_examples_are_those_of_all_tasks_as_their_templates_put_them(folder: Path) -> None:
    made = mixture(folder, BOTH)
    task = made.task
    assert (task.kind, task.text, task.label, task.name, task.choosing) == (
        "generation",
        ("input",),
        "target",
        "mix",
        "perplexity",
    )
    assert made.counts == {"sentiment": 20, "summary": 5}
    train = task.split("train").examples
    assert Counter(one.fields["set"] for one in train) == {"sentiment": 20, "summary": 5}
    for one in train:
        text, (answer,), template = one.fields["input"], one.references, one.fields["template"]
        if one.fields["set"] == "summary":
            assert answer == f"short {text[1]}"
            assert text.endswith("one two three")
            continue
        number = int("".join(filter(str.isdigit, text)))
        shapes = {"shout": f"S{number} Good?", "some": f"s{number}?", "reviews-1": f"s{number} I call it"}
        words = {"shout": ("No", "Yes"), "some": ("no", "yes"), "reviews-1": ("bad.", "great.")}
        assert (text, answer) == (shapes[template], words[template][number % 2])
    assert {one.fields["template"] for one in train} == {"shout", "some", "reviews-1", "text"}
    assert not any(one.fields["template"] == "some" and one.fields["input"].startswith("s0") for one in train)
    assert Counter(one.fields["set"] for one in task.split("dev")) == {"sentiment": 20}
    assert str(made) == "25 examples of 2 tasks: sentiment 20, summary 5; held out: nli/true, nli/so"
    assert not task.notes


def test_a_draw_depends_on_the_seed_and_can_be_larger_than_the_data(folder: Path) -> None:
    def inputs(*overrides: str) -> list[tuple[str, str]]:
        found = mixture(folder, BOTH, *overrides).task.split("train").examples
        return [(one.fields["input"], one.references[0]) for one in found]

    assert inputs() == inputs()
    assert inputs() != inputs("seed=1")
    assert len(inputs("examples=60")) == 60
    equal = mixture(folder, BOTH, "examples=60", "mixing.scheme=equal")
    assert equal.counts == {"sentiment": 30, "summary": 30}
    capped = mixture(folder, BOTH, "mixing.cap=4", "longest=2")
    assert capped.counts == {"sentiment": 4, "summary": 4}
    assert {one.fields["input"][2:] for one in capped.task.split("train") if one.fields["set"] == "summary"} == {" one"}


def test_held_out_tasks_are_asked_with_all_their_templates_and_never_learned(folder: Path) -> None:
    made = mixture(folder, BOTH)
    assert [(one.name, one.cluster, one.ranked, len(one.examples)) for one in made.watched] == [
        ("nli/true", "inference", True, 6),
        ("nli/so", "inference", True, 6),
    ]
    by_id = {
        one.fields["input"]: (one.references, own)
        for one, own in zip(made.watched[0].examples, made.watched[0].choices, strict=True)
    }
    assert by_id["p1 So h1 Right?"] == (("yes",), ("no", "yes"))
    so = {one.fields["input"]: one.references for one in made.watched[1].examples}
    assert so["p2"] == ("never!",)
    assert not any(one.fields["set"] == "nli" for split in made.task.splits.values() for one in split)
    few = mixture(folder, BOTH, "watch=2")
    first, second = (sorted(one.id.rpartition("/")[2] for one in own.examples) for own in few.watched)
    assert first == second
    assert len(first) == 2


def test_texts_that_are_written_are_watched_by_perplexity(folder: Path) -> None:
    (folder / "summary.toml").write_text(SUMMARY.replace("train =", 'test = "summary.jsonl"\ntrain ='), encoding="utf-8")
    made = mixture(folder, BOTH, "hold_out=summary", "watch=3")
    (watched,) = made.watched
    assert (watched.name, watched.ranked, len(watched.examples)) == ("summary", False, 3)


def test_a_template_that_tells_the_label_has_no_choices(folder: Path) -> None:
    made = mixture(folder, BOTH.replace('use = ["shout", "some"]', 'use = ["asks"]'))
    asks = [one for one in made.task.split("train") if one.fields["template"] == "asks"]
    assert {one.fields["input"] for one in asks} == {"A good one:", "A bad one:"}


def test_held_out_examples_that_are_learned_from_are_told(folder: Path) -> None:
    rows = [{"doc": "Look:  p3 and h3 here", "sum": "x"}, {"doc": "p4 alone", "sum": "y"}]
    (folder / "summary.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    notes = mixture(folder, BOTH).task.notes
    assert any(note.startswith("nli, held out: 1 of 6 examples of test stand in what is learned from") for note in notes)


def test_tasks_of_other_files_are_included_with_their_templates(folder: Path) -> None:
    (folder / "more.toml").write_text('[[tasks]]\ncard = "nli.toml"\ntemplates = ["nli"]\n' + NLI_LIST, encoding="utf-8")
    made = mixture(
        folder,
        'include = ["more.toml"]\n[[tasks]]\ncard = "sentiment.toml"\ntemplates = ["mine"]\n'
        '[templates.mine]\ninclude = ["was"]\n[templates.was]\npatterns = [{ text = "{s} was" }]\n',
    )
    assert made.counts == {"sentiment": 20, "nli": 6}
    assert {one.fields["template"] for one in made.task.split("train")} == {"was-1", "true", "so"}


ONE = '[[tasks]]\ncard = "nli.toml"\ntemplates = ["x"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('\ninclude = ["mix.toml"]\n', r"mix\.toml, line 2: the mixture includes itself: mix\.toml → mix\.toml"),
        ('include = ["b.toml"]\n', r"b\.toml, line 3: the mixture includes itself: mix\.toml → b\.toml → mix\.toml"),
        ('include = ["no.toml"]\n', r"mix\.toml, line 1: there is no mixture .*no\.toml"),
        ('[[tasks]]\ncard = "no.toml"\n', r"mix\.toml, line 2: there is no card"),
        ('[[tasks]]\ncard = "nli.toml"\n', r"line 2: The card of nli has no patterns"),
        ('[[tasks]]\ncard = "nli.toml"\ntemplates = ["nly"]\n' + NLI_LIST, r"line 3: there is no list of templates 'nly'.*nli"),
        (
            '[[tasks]]\ncard = "nli.toml"\ntemplates = ["a"]\n[templates.a]\ninclude = ["b"]\n\n[templates.b]\ninclude = ["a"]\n',
            r"mix\.toml, line 8: the list of templates includes itself: a → b → a",
        ),
        (
            '[[tasks]]\ncard = "sentiment.toml"\ntemplates = ["x"]\n[templates.x]\nfile = "sentiment.yaml"\nuse = ["lacks"]\n',
            r"line 2: The template 'lacks', line 1: it names 'sentence', which the data has not",
        ),
        (
            '[[tasks]]\ncard = "sentiment.toml"\ntemplates = ["x"]\n[templates.x]\npatterns = [{ text = "{t}?" }]\n',
            r"line 2: The pattern 'x-1' names \{t\}, but sentiment has no such column",
        ),
        (
            ONE + '[templates.x]\npatterns = [{ text = "{p} {mask} {h}", words = {} }]\n',
            "columns behind {mask}",
        ),
        (
            ONE + '[templates.x]\npatterns = [{ text = "{p}", words = {yes=["y"]} }]\n',
            "no words for the label 'no'",
        ),
        ('hold_out = ["nlp"]\n[[tasks]]\ncard = "sentiment.toml"\n', r"line 1: there is no task or cluster 'nlp'"),
        ('hold_out = ["sentiment"]\n[[tasks]]\ncard = "sentiment.toml"\n', "no task to learn from"),
        ('[[tasks]]\ncard = "sentiment.toml"\n[[tasks]]\ncard = "sentiment.toml"\n', "two tasks are named 'sentiment'"),
        (
            BOTH + '[[tasks]]\ncard = "nli.toml"\nname = "other"\ntemplates = ["nli"]\n',
            "other learns from .*nli.jsonl, which belongs to nli, and that is held out",
        ),
        ('[templates.x]\nuse = ["a"]\n', "give the file"),
        ("[templates.x]\n", "found none of them"),
        ("dev = -1\n", "dev must be at least 0"),
    ],
)
def test_files_that_contradict_themselves_are_refused(folder: Path, text: str, said: str) -> None:
    (folder / "b.toml").write_text('\n\ninclude = ["mix.toml"]\n', encoding="utf-8")
    with pytest.raises(InputError, match=said):
        mixture(folder, text)


def test_options_are_an_examples_own_choices(folder: Path) -> None:
    rows = [{"p": f"p{i}", "one": f"a{i}", "two": f"b{i}", "label": i % 2} for i in range(4)]
    (folder / "copa.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    card = '[files]\ntrain = "copa.jsonl"\ndev = "copa.jsonl"\n[columns]\ntext = "p"\nextra = ["one", "two"]\n'
    pattern = '[[patterns]]\nname = "so"\ntext = "{p} So {mask}"\noptions = { 0 = "one", 1 = "two" }\n'
    (folder / "copa.toml").write_text(card + pattern, encoding="utf-8")
    made = mixture(folder, BOTH.replace("inference", "copa", 1) + '[[tasks]]\ncard = "copa.toml"\n')
    (watched,) = made.watched
    asked = {one.fields["input"]: (one.references, own) for one, own in zip(watched.examples, watched.choices, strict=True)}
    assert asked["p1 So"] == (("b1",), ("a1", "b1"))
    assert asked["p2 So"] == (("a2",), ("a2", "b2"))


def test_an_example_whose_right_choice_is_also_a_wrong_one_is_left_out_and_told(folder: Path) -> None:
    """One such row must not turn the whole task from accuracy to perplexity, nor a wrong choice that stands there twice."""
    rows = [{"p": f"p{i}", "one": f"a{i}", "two": f"b{i}", "three": f"c{i}", "label": i % 2} for i in range(4)]
    rows[1] |= {"one": "same", "two": "same"}
    rows[2] |= {"two": "wrong", "three": "wrong"}
    (folder / "copa.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    card = '[files]\ntrain = "copa.jsonl"\ndev = "copa.jsonl"\n[columns]\ntext = "p"\nextra = ["one", "two", "three"]\n'
    pattern = '[[patterns]]\nname = "so"\ntext = "{p} So {mask}"\noptions = { 0 = "one", 1 = "two", 2 = "three" }\n'
    (folder / "copa.toml").write_text('labels = ["0", "1", "2"]\n' + card + pattern, encoding="utf-8")
    yaml = "templates:\n  own:\n    jinja: '{{ p }} So? ||| {{ answer_choices[label] }}'\n    answer_choices: '%s'\n"
    (folder / "copa.yaml").write_text(yaml % "{{ one }} ||| {{ two }} ||| {{ three }}", encoding="utf-8")
    entry = '[[tasks]]\ncard = "copa.toml"\n'
    templates = 'templates = ["own"]\n[templates.own]\nfile = "copa.yaml"\n'
    for text in (entry, entry + templates):
        made = mixture(folder, BOTH.replace("inference", "copa", 1) + text)
        (watched,) = made.watched
        assert watched.ranked
        asked = {one.fields["input"][:2]: own for one, own in zip(watched.examples, watched.choices, strict=True)}
        assert asked == {"p0": ("a0", "b0", "c0"), "p2": ("a2", "wrong"), "p3": ("a3", "b3", "c3")}
        note = made.task.notes[0]
        assert note.startswith("copa, held out: 1 of 4 examples are left out, for a wrong choice has the text of the right one")
        assert re.search(r"\(the first is (dev/1|.*copa\.jsonl, line 2)\)$", note), note
    (folder / "copa.yaml").write_text(yaml % "{{ one }} ||| {{ one }} ||| {{ one }}", encoding="utf-8")
    with pytest.raises(InputError, match="'own' leaves out every example of copa, 4 since a wrong choice has the text"):
        mixture(folder, BOTH.replace("inference", "copa", 1) + entry + templates)


def test_templates_have_the_texts_of_spans_and_tags_as_their_answers(folder: Path) -> None:
    spans = [{"question": "who?", "context": f"It was {name}.", "answers": [{"text": name, "answer_start": 7}]} for name in "AB"]
    tags = [{"words": "a b", "tags": "X Y"}, {"words": "b a", "tags": "Y X"}]
    for name, lines in (("span", [json.dumps(row) for row in spans]), ("labelling", [json.dumps(row) for row in tags])):
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        columns = '[columns]\ntext = "words"\nlabel = "tags"\n' if name == "labelling" else ""
        (folder / f"{name}.toml").write_text(f'kind = "{name}"\n[files]\ntrain = "{name}.jsonl"\n{columns}', encoding="utf-8")
    asked = {"span": "{{ context }} {{ question }} ||| {{ answers }}", "labelling": "{{ words }} ||| {{ tags }}"}
    for name, jinja in asked.items():
        (folder / f"{name}.yaml").write_text(f'templates:\n  asked:\n    jinja: "{jinja}"\n', encoding="utf-8")
    entries = "".join(f'[[tasks]]\ncard = "{name}.toml"\ntemplates = ["{name}"]\n' for name in asked)
    made = mixture(folder, entries + "".join(f'[templates.{name}]\nfile = "{name}.yaml"\n' for name in asked))
    found = {(one.fields["input"], one.references) for one in made.task.split("train")}
    assert found == {("It was A. who?", ("A",)), ("It was B. who?", ("B",)), ("a b", ("X Y",)), ("b a", ("Y X",))}


@pytest.mark.parametrize("text", ["{s.upper}", "{s[0]}", "{s!r}", "{s:>3}", "{", "{}"])
def test_patterns_evaluate_nothing(folder: Path, text: str) -> None:
    entry = f'[[tasks]]\ncard = "sentiment.toml"\ntemplates = ["x"]\n[templates.x]\npatterns = [{{ text = "{text}" }}]\n'
    with pytest.raises(InputError, match="The pattern 'x-1' of sentiment"):
        mixture(folder, entry)
