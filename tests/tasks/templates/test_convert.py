"""Templates as patterns: which become one, which need a column, and which are no question with one word for each label."""

from pathlib import Path

import pytest

from lmtailor.core.errors import InputError
from lmtailor.tasks.card import load_task
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.task import Task
from lmtailor.tasks.templates.convert import plain_prompt
from lmtailor.tasks.templates.template import JinjaTemplate, TemplateError

ROWS = [{"text": "a fine film", "topic": "drama", "gold": "pos"}, {"text": "a {bad} one", "topic": "", "gold": "neg"}]


@pytest.fixture
def task() -> Task:
    return Task.from_records(
        text="text", label="gold", extra=["topic"], train=ROWS, test=ROWS[:1], unlabelled=[{"text": "who knows", "topic": "x"}]
    )


def template(source: str, choices: str | None = "bad ||| good") -> JinjaTemplate:
    return JinjaTemplate(name="asked", source=source, choices=choices)


@pytest.mark.parametrize(
    ("source", "pattern"),
    [
        ("{{ text }} Is it good? ||| {{ answer_choices[label] }}", "{text} Is it good? {mask}"),
        ("{{topic}}: {{text}}\n{{ answer_choices[1] }} or {{ answer_choices[0] }}?\n|||\n{{ answer_choices[gold] }}", None),
        ("{ {{ text }} } ||| {{ ['bad', 'good'][label] }}", "{{ {text} }} {mask}"),
        ("{{ 'Is {this} ' }}{{ text }}||| {{ 'good' if label else 'bad' }}", "Is {{this}} {text} {mask}"),
    ],
)
def test_text_and_columns_are_a_pattern(task: Task, source: str, pattern: str | None) -> None:
    found = task.with_template(template(source))
    assert found.prompts[0] == Prompt(
        name="asked", pattern=pattern or "{topic}: {text}\ngood or bad? {mask}", words={"neg": ("bad",), "pos": ("good",)}
    )
    assert found.digest == task.digest


@pytest.mark.parametrize(
    ("source", "first"),
    [
        ("{{ text|upper }} ||| {{ answer_choices[label] }}", "A FINE FILM"),
        ("{% if topic %}{{ topic }}: {% endif %}{{ text }} ||| {{ answer_choices[label] }}", "drama: a fine film"),
        ("{% if text %}{{ text }} ||| {{ answer_choices[label] }}{% endif %}", "a fine film"),
        ("{{ text }} ||| {% if label == 1 %}good{% else %}bad{% endif %}", "a fine film"),
    ],
)
def test_what_is_computed_becomes_a_column(task: Task, source: str, first: str) -> None:
    found = task.with_template(template(source))
    assert found.prompts[0] == Prompt(name="asked", pattern="{prompt} {mask}", words={"neg": ("bad",), "pos": ("good",)})
    assert found.columns == ("text", "topic", "prompt")
    assert found.split("train").examples[0].fields == {"text": "a fine film", "topic": "drama", "prompt": first}
    assert all("prompt" in example.fields for split in found.splits.values() for example in split)
    assert found.split("train").labels == task.split("train").labels
    with pytest.raises(InputError, match="has a column 'prompt'"):
        found.with_template(template(source))


@pytest.mark.parametrize(
    ("source", "choices", "told"),
    [
        ("{{ text }} ||| {{ answer_choices[2] }}", "bad ||| good", "item 2, of 2"),
        ("{{ text }} ||| {{ answer_choices[0] }}", "bad ||| good", "same answer for several labels"),
        ("{{ text }}", "bad ||| good", "no answer for any label"),
        ("{{ text }} ||| {{ '' if label == 0 else 'x' }}", None, "no answer for the label 'neg'"),
        ("{{ text }} ||| {{ answer_choices[label] }} ||| more", "bad ||| good", "has 3 parts"),
        ("{{ answer_choices[label] }} {{ text }} ||| {{ answer_choices[label] }}", "bad ||| good", "shows the label"),
        ("{{ sentence }} ||| {{ answer_choices[label] }}", "bad ||| good", "names 'sentence', but the data has no such column"),
        ("{{ sentence|upper }} ||| {{ answer_choices[label] }}", "bad ||| good", "names 'sentence', which the data has not"),
        ("{{ text }} ||| {{ answer_choices[label] }}", "{{ text }} ||| good", "words are the same for all"),
        ("{{ text }} ||| {{ answer_choices[label] }}", None, "asks None for an item"),
        ("{{ text }} ||| {{ text }}", None, "same answer for several labels"),
    ],
)
def test_what_is_no_question_with_a_word_for_each_label(task: Task, source: str, choices: str | None, told: str) -> None:
    with pytest.raises(TemplateError, match=told):
        task.with_template(template(source, choices))


def test_a_column_called_mask_is_no_gap() -> None:
    task = Task.from_records(text="mask", train=[{"mask": "a", "label": 0}, {"mask": "b", "label": 1}])
    asked = template("{{ mask }} ||| {{ answer_choices[label] }}")
    assert plain_prompt(asked, task.template_shape()) is None
    assert task.with_template(asked).prompts[0].pattern == "{prompt} {mask}"


def test_regression_has_no_words() -> None:
    task = Task.from_records(text="s", kind="regression", train=[{"s": "a", "label": 0}, {"s": "b", "label": 1}])
    with pytest.raises(InputError, match="regression"):
        task.with_template(template("a"))


def test_draws_are_those_of_the_example(task: Task) -> None:
    source = "{{ choice(['a', 'b', 'c', 'd', 'e', 'f']) }} {{ text }} ||| {{ answer_choices[label] }}"
    columns = {
        seed: [example.fields["prompt"] for example in task.with_template(template(source), seed=seed).split("train")]
        for seed in range(6)
    }
    assert len({tuple(column) for column in columns.values()}) > 1
    assert columns[0] == [example.fields["prompt"] for example in task.with_template(template(source)).split("train")]


CARD = """
[files]
train = "train.csv"
[columns]
text = "text"
extra = ["topic"]
[[patterns]]
text = "{text} It was {mask}."
[[patterns]]
name = "all in all"
text = "{text} All in all {mask}."
words = { neg = ["awful"], pos = ["great", "fine"] }
[verbalizer]
neg = ["bad"]
pos = ["good"]
"""
YAML = """
templates:
  told: {jinja: "{{ text }} It is ||| {{ answer_choices[label] }}", answer_choices: "no ||| yes"}
  loud: {jinja: "{{ text|upper }} ||| {{ answer_choices[label] }}", answer_choices: "NO ||| YES"}
  louder: {jinja: "{{ text|upper }}! ||| {{ answer_choices[label] }}", answer_choices: "NO ||| YES"}
  open: {jinja: "{{ text }} ||| {{ topic }}"}
  bad: {jinja: "{{ text.x() }}"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text("text,topic,label\na film,x,pos\na mess,y,neg\n")
    (tmp_path / "prompts.yaml").write_text(YAML)
    return tmp_path


def load(folder: Path, more: str = "") -> Task:
    (folder / "films.toml").write_text(more + CARD if "[" not in more else CARD + more)
    return load_task(folder / "films.toml")


def test_patterns_of_a_card_have_names(folder: Path) -> None:
    task = load(folder)
    assert [prompt.name for prompt in task.prompts] == ["1", "all in all"]
    assert task.prompt("1").words == {"neg": ("bad",), "pos": ("good",)}
    assert task.prompt("all in all").words == {"neg": ("awful",), "pos": ("great", "fine")}
    assert task.patterns[0] == "{text} It was {mask}."
    with pytest.raises(InputError, match=r"no pattern named 'all in al'\. Did you mean all in all"):
        task.prompt("all in al")


def test_a_card_with_templates(folder: Path) -> None:
    task = load(folder, 'templates = "prompts.yaml"\n')
    assert [prompt.name for prompt in task.prompts] == ["1", "all in all", "told"]
    assert task.columns == ("text", "topic")
    (note,) = (note for note in task.notes if "prompts.yaml" in note)
    assert "4 templates are left out" in note
    assert "'loud' computes its input; name it under templates.use" in note
    assert "'bad', line 1: it has the method 'x'" in note


def test_a_card_that_chooses_templates(folder: Path) -> None:
    task = load(folder, '[templates]\nfile = "prompts.yaml"\nuse = ["louder", "told", "loud"]\n')
    assert [prompt.name for prompt in task.prompts] == ["1", "all in all", "louder", "told", "loud"]
    assert [prompt.pattern for prompt in task.prompts[2:]] == ["{prompt} {mask}", "{text} It is {mask}", "{prompt_2} {mask}"]
    assert task.split("train").examples[0].fields["prompt_2"] == "A FILM"
    assert task.prompt("loud").words == {"neg": ("NO",), "pos": ("YES",)}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('[templates]\nfile = "prompts.yaml"\nuse = ["open"]\n', "same answer for several labels"),
        ('[templates]\nfile = "prompts.yaml"\nuse = ["bad"]\n', "method 'x'"),
        ('[templates]\nfile = "prompts.yaml"\nuse = ["tol"]\n', "no template 'tol'. Did you mean told"),
        ('[templates]\nfile = "prompts.yaml"\nuse = ["told", "told"]\n', "each once"),
        ('[templates]\nfile = "prompts.yaml"\nuse = []\n', "each once"),
        ('[templates]\nfile = "none.yaml"\n', "No such file"),
        (
            '[[patterns]]\ntext = "{mask}"\nname = "told"\n[templates]\nfile = "prompts.yaml"\n',
            "Both the card and .* named 'told'",
        ),
        ('[[patterns]]\ntext = "{mask}"\nname = "1"\n', "Two patterns are named '1'"),
        ('[[patterns]]\ntext = "{mask}"\nname = ""\n', "must be one line of text"),
        ('[[patterns]]\ntext = "{mask}"\nwords = { neg = ["a"] }\n', "no words for 'pos'"),
    ],
)
def test_what_a_card_gets_wrong(folder: Path, more: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load(folder, more)


def test_no_template_fits(folder: Path) -> None:
    (folder / "prompts.yaml").write_text("templates:\n  a: {jinja: 'x'}\n")
    with pytest.raises(InputError, match=r"No template of .* fits the task films. The template 'a' has no"):
        load(folder, 'templates = "prompts.yaml"\n')
