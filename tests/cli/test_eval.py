"""`lmtailor eval`."""

import json
from pathlib import Path

import pytest

from tests.cli.inputs import Command, fit_words, write_csv


@pytest.fixture
def fitted(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> Path:
    """An adapter's folder."""
    assert lmtailor(*fit_words(encoder, data, tmp_path / "out", method="frozen")).code == 0
    return tmp_path / "out"


def test_scores_are_those_of_the_fit(lmtailor: Command, encoder: Path, data: Path, fitted: Path) -> None:
    outcome = lmtailor("eval", encoder, fitted, "--task", data / "card.toml", "--split", "dev", "--split", "test", "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert (told["base"], told["adapter"], told["task"]) == (str(encoder), str(fitted), "films")
    assert list(told["scores"]) == ["dev", "test"]
    stored = json.loads((fitted / "adapter.json").read_text("utf-8"))["scores"]["dev"]
    assert told["scores"]["dev"] == stored
    assert told["scores"]["test"]["accuracy"]["n"] == 8


def test_a_table_where_there_is_no_terminal_has_tabs(lmtailor: Command, encoder: Path, data: Path, fitted: Path) -> None:
    lines = lmtailor("eval", encoder, fitted, "--task", data / "card.toml").out.splitlines()
    assert lines[0] == "split\tmetric\tvalue\t95 % interval\tn"
    assert [line.split("\t")[:2] for line in lines[1:]] == [["test", "accuracy"], ["test", "macro_f1"]]


def test_zero_shot_and_with_demonstrations(lmtailor: Command, decoder: Path, data: Path) -> None:
    words = ("eval", decoder, "--task", data / "card.toml", "--readout", "verbalizer", "--json")
    zero, few = lmtailor(*words), lmtailor(*words, "--set", "demonstrations.k=2", "--seed", 3)
    for outcome in (zero, few):
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["adapter"] is None
    wrong = lmtailor(*words, "--set", "demonstrations.k=99")
    assert wrong.code == 2
    assert "99 demonstrations" in wrong.errors[0]


def test_few_shots_are_drawn_by_the_seed(lmtailor: Command, decoder: Path, data: Path) -> None:
    words = ("eval", decoder, "--task", data / "card.toml", "--readout", "verbalizer", "--json", "--split", "dev", "--shots")
    outcome = lmtailor(*words, 1, "--set", "demonstrations.k=2")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["scores"]["dev"]["accuracy"]["n"] == 2
    wrong = lmtailor(*words, 999)
    assert wrong.code == 2
    assert "999 shots need 1998" in wrong.errors[0]


def test_a_pattern_of_the_card_by_its_name(lmtailor: Command, decoder: Path, data: Path) -> None:
    card = data / "named.toml"
    text = (data / "card.toml").read_text("utf-8").partition("[[patterns]]")[0].partition("[verbalizer]")[0]
    own = '[[patterns]]\nname = "{name}"\ntext = "{{sentence}} {name} {{mask}}"\nwords = {{ neg = ["bad"], pos = ["{word}"] }}\n'
    card.write_text(text + own.format(name="was", word="good") + own.format(name="is", word="great"), "utf-8")
    words = ("eval", decoder, "--task", card, "--readout", "verbalizer", "--json", "--split", "dev")
    first, named, other = (lmtailor(*words, *more) for more in ((), ("--pattern-name", "was"), ("--pattern-name", "is")))
    assert (first.code, named.code, other.code) == (0, 0, 0), first.err + named.err + other.err
    assert json.loads(first.out)["scores"] == json.loads(named.out)["scores"]
    for more, told in (
        (("--pattern-name", "si"), "no pattern named 'si'"),
        (("--pattern-name", "is", "--word", "neg=bad"), "stands for a pattern and its words"),
    ):
        assert told in lmtailor(*words, *more).errors[0]
    assert "are for --readout verbalizer" in lmtailor("eval", decoder, "--task", card, "--pattern-name", "is").errors[0]


def test_what_cannot_be_scored(lmtailor: Command, encoder: Path, data: Path, fitted: Path) -> None:
    card = ("--task", data / "card.toml")
    for words, told in (
        ((encoder, fitted, *card, "--split", "tset"), "no split 'tset'. Did you mean test?"),
        ((encoder, fitted, *card, "--readout", "head"), "has a readout of its own"),
        ((encoder, fitted, *card, "--set", "pooling=cls"), "has a readout of its own"),
        ((encoder, *card), "parameters that must be trained"),
        ((encoder, *card, "--readout", "verbalizer", "--set", "aggregat=max"), "aggregate"),
        ((encoder, fitted), "There is no data"),
    ):
        outcome = lmtailor("eval", *words)
        assert outcome.code == 2
        assert told in outcome.errors[0]


def test_other_labels_than_the_adapter_has(lmtailor: Command, encoder: Path, data: Path, fitted: Path) -> None:
    test = write_csv(data / "other.csv", ("sentence", "label"), [("fun", "yes"), ("sad", "no")])
    outcome = lmtailor("eval", encoder, fitted, "--test", test, "--text", "sentence")
    assert outcome.code == 2
    assert "['neg', 'pos']" in outcome.errors[0]
    assert "['no', 'yes']" in outcome.errors[0]
