"""`lmtailor eval --predictions`."""

import json
from pathlib import Path

import pytest

from lmtailor.tasks.metrics.text import TEXT_METRICS, evaluate_texts
from tests.cli.inputs import Command
from tests.tasks.metrics.outputs import PREDICTIONS, REFERENCES


@pytest.fixture
def files(tmp_path: Path) -> list[Path | str]:
    """Words of a command that scores texts in plain files."""
    said, own = tmp_path / "said.txt", tmp_path / "own.txt"
    said.write_text("\n".join(PREDICTIONS) + "\n", "utf-8")
    own.write_text("\n\n".join("\n".join(references) for references in REFERENCES) + "\n", "utf-8")
    return ["eval", "--predictions", said, "--references", own]


def test_scores_of_plain_files(lmtailor: Command, files: list[Path | str]) -> None:
    outcome = lmtailor(*files, "--json", "--seed", 3)
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    expected = evaluate_texts(["bleu", "nist", "coco_rouge_l", "cider"], PREDICTIONS, REFERENCES, seed=3)
    assert told["scores"] == expected.to_mapping()
    assert (told["predictions"], told["references"], told["empty"]) == (str(files[2]), str(files[4]), 1)
    (warning,) = outcome.warnings
    assert "1 of 5 predictions are empty and match nothing; line 5 is the first" in warning


def test_a_table_of_named_metrics(lmtailor: Command, files: list[Path | str]) -> None:
    lines = lmtailor(*files, "--metric", "rouge_1", "--metric", "distinct_1").out.splitlines()
    assert lines[0] == "metric\tvalue\t95 % interval\tn"
    assert [line.split("\t")[0] for line in lines[1:]] == ["rouge_1", "distinct_1"]


def test_texts_without_references_are_described(lmtailor: Command, files: list[Path | str]) -> None:
    outcome = lmtailor(*files[:3], "--json")
    assert outcome.code == 0, outcome.err
    assert list(json.loads(outcome.out)["scores"]) == ["distinct_1", "distinct_2"]
    wrong = lmtailor(*files[:3], "--metric", "bleu")
    assert wrong.code == 2
    assert "bleu compares with references" in wrong.errors[0]


def test_bad_commands(lmtailor: Command, files: list[Path | str], tmp_path: Path) -> None:
    for words, message in {
        ("--metric", "bleau"): "no text metric 'bleau'. Did you mean bleu?",
        ("--split", "dev"): "scored without a model",
        ("--set", "task.limits.test=3"): "scored without a model",
        ("--label", "y"): "scored without a task",
    }.items():
        outcome = lmtailor(*files, *words)
        assert outcome.code == 2
        assert message in outcome.errors[0]
    assert "Give both" in lmtailor("eval", *files[3:]).errors[0]
    assert "There is nothing to score" in lmtailor("eval").errors[0]
    assert "scored without a model" in lmtailor("eval", "some/model", *files[1:]).errors[0]
    (tmp_path / "own.txt").write_text("a\n\nb\n", "utf-8")
    outcome = lmtailor(*files)
    assert outcome.code == 2
    assert "own.txt has references for 2 examples" in outcome.errors[0]


def test_help_names_every_metric(lmtailor: Command) -> None:
    words = lmtailor("eval", "--help").out.replace(",", " ").replace(".", " ").split()
    assert set(TEXT_METRICS) <= set(words)


def test_an_example_that_a_metric_cannot_score_is_named_by_file_and_line(lmtailor: Command, tmp_path: Path) -> None:
    (tmp_path / "said.jsonl").write_text('{"prediction": "O O"}\n\n{"prediction": "O"}\n', "utf-8")
    (tmp_path / "right.txt").write_text("O O\nO B-PER\n", "utf-8")
    command = ("eval", "--predictions", tmp_path / "said.jsonl", "--references", tmp_path / "right.txt", "--metric", "span_f1")
    outcome = lmtailor(*command)
    assert outcome.code == 2
    assert "said.jsonl, line 3 has 1 tags, but its reference 2. Give each token a tag." in outcome.errors[0]
