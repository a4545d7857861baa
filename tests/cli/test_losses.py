"""What `lmtailor fit` minimises: the objective, soft labels, and language modelling on unlabelled text."""

import json
from pathlib import Path

import pytest

from tests.cli.inputs import ROWS, Command, Outcome, fit_words, write_csv


def settings(folder: Path) -> dict[str, dict[str, object] | None]:
    """What an adapter was fitted by."""
    told = json.loads((folder / "adapter.json").read_text("utf-8"))
    found: dict[str, dict[str, object] | None] = told["provenance"]["settings"]
    return found


@pytest.fixture
def masked(data: Path) -> Path:
    """The card with texts without labels."""
    write_csv(data / "more.csv", ("sentence",), [(text,) for text, _ in ROWS["train"]])
    card = data / "card.toml"
    card.write_text(card.read_text("utf-8").replace("[columns]", 'unlabelled = "more.csv"\n[columns]'), "utf-8")
    return data


def words_for(base: Path, data: Path, out: Path) -> list[object]:
    """A short fit without --batch-size."""
    words = fit_words(base, data, out)
    at = words.index("--batch-size")
    return words[:at] + words[at + 2 :]


def refused(outcome: Outcome, told: str) -> None:
    assert outcome.code == 2
    assert told in outcome.errors[0]


def test_label_smoothing_and_unlabelled_texts(lmtailor: Command, encoder: Path, masked: Path, tmp_path: Path) -> None:
    words = words_for(encoder, masked, tmp_path / "out")
    more = ("--set", "unlabelled.weight=1e-3", "--set", "unlabelled.batch_size=3", "--set", "batch_size=5")
    outcome = lmtailor(*words, *more, "--set", "objective.label_smoothing=0.1")
    assert outcome.code == 0, outcome.err
    found = settings(tmp_path / "out")
    assert found["objective"] == {"name": "supervised", "label_smoothing": 0.1}
    assert found["unlabelled"] == {"weight": 0.001, "batch_size": 3, "masked": 0.15}
    assert found["training"] is not None
    assert found["training"]["batch_size"] == 5  # the bare name is the training's


def test_without_its_settings_there_is_no_language_modelling(
    lmtailor: Command, encoder: Path, masked: Path, tmp_path: Path
) -> None:
    outcome = lmtailor(*words_for(encoder, masked, tmp_path / "out"), "--set", "batch_size=5", "--set", "label_smoothing=0.2")
    assert outcome.code == 0, outcome.err
    found = settings(tmp_path / "out")
    assert found["unlabelled"] is None
    assert found["objective"] == {"name": "supervised", "label_smoothing": 0.2}


def test_distillation_from_an_adapter_and_from_its_answers(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    assert lmtailor(*fit_words(encoder, data, tmp_path / "teacher")).code == 0
    answers = lmtailor("predict", encoder, tmp_path / "teacher", "--file", data / "train.csv")
    (tmp_path / "answers.jsonl").write_text(answers.out, "utf-8")
    for name, source in (("asked", tmp_path / "teacher"), ("read", tmp_path / "answers.jsonl")):
        words = ("--objective", "distillation", "--soft-labels", source, "--set", "temperature=3")
        outcome = lmtailor(*fit_words(encoder, data, tmp_path / name), *words)
        assert outcome.code == 0, outcome.err
        assert settings(tmp_path / name)["objective"] == {"name": "distillation", "temperature": 3.0}
        assert settings(tmp_path / name)["soft_labels"] is not None


def test_what_does_not_fit_is_told(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    words = fit_words(encoder, data, tmp_path / "out")
    refused(lmtailor(*words, "--objective", "distilation"), "no objective 'distilation'. Did you mean distillation")
    refused(lmtailor(*words, "--objective", "distillation"), "give --soft-labels")
    refused(lmtailor(*words, "--soft-labels", data), "are for --objective distillation")
    soft = ("--objective", "distillation", "--soft-labels")
    refused(lmtailor(*words, *soft, tmp_path / "none"), "There are no soft labels in")
    refused(lmtailor(*words, "--set", "weight=0.1"), "written in full: --set unlabelled.weight=0.1")
    refused(lmtailor(*words, "--set", "unlabelled.wieght=0.1"), "unlabelled.weight")
    refused(lmtailor(*words, "--set", "unlabelled.weight=0.1"), "no unlabelled split")


def test_unlabelled_texts_from_a_file(lmtailor: Command, encoder: Path, masked: Path, tmp_path: Path) -> None:
    files = [word for name in ("train", "dev", "unlabelled") for word in (f"--{name}", masked / f"{name}.csv")]
    (masked / "more.csv").rename(masked / "unlabelled.csv")
    words = ("--text", "sentence", "--method", "bitfit", "--epochs", 1, "--out", tmp_path / "out")
    outcome = lmtailor("fit", encoder, *files, *words, "--set", "unlabelled.batch_size=2")
    assert outcome.code == 0, outcome.err
    assert settings(tmp_path / "out")["unlabelled"] == {"weight": 0.0001, "batch_size": 2, "masked": 0.15}
