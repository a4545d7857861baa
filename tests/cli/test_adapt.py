"""`lmtailor adapt`: what a strategy searches for need not be given."""

import json
from pathlib import Path

import pytest

from lmtailor.cli import choices
from lmtailor.cli.options import ReadoutOptions, TrainingOptions
from lmtailor.core.errors import InputError
from lmtailor.readouts.text import Text
from lmtailor.tasks.task import Task
from tests.cli.inputs import ROWS, Command, Outcome, write_csv

SHORT = ("--set", "training.max_steps=1", "--set", "candidates=2", "--set", "top_words=5")


@pytest.fixture
def bare(data: Path) -> Path:
    """A card without patterns or words."""
    file = data / "bare.toml"
    file.write_text((data / "card.toml").read_text("utf-8").partition("[[patterns]]")[0], "utf-8")
    return file


def search(folder: Path) -> dict[str, object]:
    """What a strategy found."""
    told = json.loads((folder / "adapter.json").read_text("utf-8"))
    found: dict[str, object] = told["provenance"]["search"]
    return found


def refused(outcome: Outcome, told: str) -> None:
    assert outcome.code == 2
    assert told in outcome.errors[0]


def test_words_are_found_for_a_pattern_on_the_command_line(lmtailor: Command, encoder: Path, bare: Path, tmp_path: Path) -> None:
    words = ("adapt", encoder, "--task", bare, "--pattern", "{sentence} it was {mask}", "--out", tmp_path / "out")
    outcome = lmtailor(*words, "--strategy", "lm_bff", "--method", "bitfit", *SHORT)
    assert outcome.code == 0, outcome.err
    found = search(tmp_path / "out")
    assert found["pattern"] == "{sentence} it was {mask}"
    assert set(found["words"]) == {"neg", "pos"}  # type: ignore[call-overload]  # a table
    assert 'pattern\t"{sentence} it was {mask}"' in outcome.out
    assert "words\tneg: " in outcome.out
    assert json.loads(lmtailor("predict", encoder, tmp_path / "out", "a good movie").out)["label"] in ("neg", "pos")


def test_words_are_found_for_the_card_s_pattern_of_a_name(lmtailor: Command, encoder: Path, bare: Path, tmp_path: Path) -> None:
    patterns = (
        '[[patterns]]\nname = "a"\ntext = "{sentence} so {mask}"\n[[patterns]]\nname = "b"\ntext = "{sentence} it was {mask}"\n'
    )
    bare.write_text(bare.read_text("utf-8") + patterns, "utf-8")
    words = ("adapt", encoder, "--task", bare, "--pattern-name", "b", "--out", tmp_path / "out")
    outcome = lmtailor(*words, "--strategy", "autoprompt_words", "--set", "words.epochs=1")
    assert outcome.code == 0, outcome.err
    assert set(search(tmp_path / "out")["label_words"]) == {"neg", "pos"}  # type: ignore[call-overload]  # a table
    assert "words\tneg: " in outcome.out
    refused(lmtailor(*words, "--strategy", "lm_bff", "--set", "search=templates"), "'b' has no words")
    refused(lmtailor(*words[:4], "--pattern-name", "c", "--strategy", "lm_bff"), "no pattern named 'c'")


def test_a_pattern_is_found_for_words(lmtailor: Command, decoder: Path, bare: Path, tmp_path: Path) -> None:
    words = ("adapt", decoder, "--task", bare, "--word", "neg=bad", "--word", "pos=good", "--out", tmp_path / "out")
    more = ("--set", "search=templates", "--set", "beam=3", "--set", "longest=3", "--method", "frozen")
    outcome = lmtailor(*words, "--strategy", "lm_bff", *more, "--set", "candidates=2")
    assert outcome.code == 0, outcome.err
    assert search(tmp_path / "out")["words"] == {"neg": ["bad"], "pos": ["good"]}


def test_what_is_not_searched_for_must_be_given(lmtailor: Command, encoder: Path, bare: Path) -> None:
    words = ("adapt", encoder, "--task", bare, "--pattern", "{sentence} it was {mask}")
    refused(lmtailor(*words, "--strategy", "prompted"), "The verbalizer needs words for the labels")
    refused(lmtailor(*words, "--strategy", "lm_bff", "--set", "search=both"), "The verbalizer needs words for the labels")
    refused(lmtailor(*words[:4], "--strategy", "lm_bff", "--out", bare.parent / "out"), "needs a pattern")
    assert not [path for path in bare.parent.iterdir() if "work" in path.name]


def test_the_seed_draws_the_shots(lmtailor: Command, encoder: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def drawn(task: Task, k: int, seed: int = 0) -> Task:
        seeds.append(seed)
        raise InputError(f"{k} shots")

    monkeypatch.setattr(Task, "few_shot", drawn)
    words = ("adapt", encoder, "--task", data / "card.toml", "--strategy", "prompted", "--shots", "2", "--seed", "13")
    refused(lmtailor(*words), "2 shots")
    assert seeds == [13]


def test_options_of_a_pattern_are_of_the_usual_readout_that_has_one(lmtailor: Command, encoder: Path, data: Path) -> None:
    words = ("adapt", encoder, "--task", data / "card.toml", "--strategy", "prompted", "--target", " {label}")
    refused(lmtailor(*words), "--target is for --readout text")
    texts = Task.from_records(train=[{"a": "x", "b": "y"}], kind="generation", text="a", label="b")
    answer = ReadoutOptions(pattern="Q: {a} A:", target=" {b}.")
    sources = ("strategy.sources=a",)
    chosen = choices.the_strategy(texts, "spot", None, answer, TrainingOptions(), sources)
    assert chosen.readout == Text("Q: {a} A:", target=" {b}.")


def test_spot_and_a_hard_prompt(lmtailor: Command, decoder: Path, data: Path, tmp_path: Path) -> None:
    card = ("--task", data / "card.toml", "--readout", "verbalizer")
    prompt = ("fit", decoder, *card, "--method", "soft_prompt", "--set", "length=2", "--set", "max_steps=1")
    assert lmtailor(*prompt, "--out", tmp_path / "source").code == 0
    spot = ("adapt", decoder, *card, "--strategy", "spot", "--set", f"sources={tmp_path / 'source'}")
    outcome = lmtailor(*spot, "--set", "max_steps=1", "--out", tmp_path / "spot")
    assert outcome.code == 0, outcome.err
    assert search(tmp_path / "spot")["chosen"] == [0]
    assert f"from\t{tmp_path / 'source'}" in outcome.out
    outcome = lmtailor("adapt", decoder, *card, "--strategy", "prompted", "--set", "strategy.k=2", "--out", tmp_path / "shown")
    assert outcome.code == 0, outcome.err
    assert len(search(tmp_path / "shown")["demonstrations"]) == 2  # type: ignore[arg-type]  # a list
    write_csv(
        tmp_path / "rows.csv", ("sentence", "adapter"), [(text, ("a", "b")[i % 2]) for i, (text, _) in enumerate(ROWS["test"])]
    )
    both = ("--adapter", f"a={tmp_path / 'spot'}", "--adapter", f"b={tmp_path / 'shown'}", "--file", tmp_path / "rows.csv")
    mixed = lmtailor("predict", decoder, *both)
    assert mixed.code == 0, mixed.err
    assert [json.loads(line)["adapter"] for line in mixed.out.splitlines()] == ["a", "b"] * 4


def test_a_trigger_is_printed_as_text(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    few = ("--set", "iterations=1", "--set", "candidates=2", "--set", "accumulation=1", "--set", "label_words=search")
    words = ("adapt", encoder, "--task", data / "card.toml", "--strategy", "autoprompt", *few, "--out", tmp_path / "out")
    outcome = lmtailor(*words)
    assert outcome.code == 0, outcome.err
    again = lmtailor(*words)
    for one in (outcome, again):
        assert f"trigger\t{json.dumps(search(tmp_path / 'out')['text'])}" in one.out
        assert "words\tneg: " in one.out
