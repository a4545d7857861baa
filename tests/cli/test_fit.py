"""`lmtailor fit`: from files to an adapter."""

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lmtailor.core.files import sha256
from tests.cli.inputs import ROWS, Command, Outcome, fit_words, process, write_csv


def _table(outcome: Outcome) -> dict[tuple[str, str], list[str]]:
    """The scores by split and metric."""
    rows = [line.split("\t") for line in outcome.out.splitlines()]
    return {(row[0], row[1]): row[2:] for row in rows if len(row) == 5 and row[0] != "split"}


def _fields(outcome: Outcome) -> dict[str, str]:
    return dict(line.split("\t", 1) for line in outcome.out.splitlines() if line.count("\t") == 1)


def _next(outcome: Outcome) -> str:
    """The command that is to be typed next: the last line."""
    assert outcome.out.splitlines()[-3:-1] == ["To use it:", ""]
    return outcome.out.splitlines()[-1].strip()


def _tensors(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.glob("*.safetensors")}


def test_a_fit_prints_scores_the_adapter_and_the_next_command(
    lmtailor: Command, encoder: Path, data: Path, tmp_path: Path
) -> None:
    outcome = lmtailor(*fit_words(encoder, data, tmp_path / "out"))
    assert outcome.code == 0, outcome.err
    scores = _table(outcome)
    assert set(scores) == {("dev", "accuracy"), ("dev", "macro_f1"), ("test", "accuracy"), ("test", "macro_f1")}
    value, interval, count = scores["test", "accuracy"]
    low, high = map(float, interval.split(" to "))
    assert low <= float(value) <= high
    assert count == "8"
    assert _fields(outcome)["adapter"].startswith(f"{tmp_path / 'out'} (")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"adapter.json", "README.md"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
    following = shlex.split(_next(outcome))
    assert following[:4] == ["lmtailor", "predict", str(encoder), str(tmp_path / "out")]
    answer = json.loads(lmtailor(*following[1:]).out)
    assert answer["label"] in ("neg", "pos")
    assert set(answer["scores"]) == {"neg", "pos"}


def test_the_same_command_again_trains_nothing(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    words = fit_words(encoder, data, tmp_path / "out")
    first = lmtailor(*words)
    written = (tmp_path / "out" / "adapter.json").stat().st_mtime_ns
    again = lmtailor(*words)
    assert again.code == 0
    assert "nothing was trained" in again.err
    assert again.out == first.out
    assert (tmp_path / "out" / "adapter.json").stat().st_mtime_ns == written


def test_other_settings_need_overwrite(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    words = fit_words(encoder, data, tmp_path / "out")
    lmtailor(*words)
    refused = lmtailor(*words, "--seed", 1)
    assert refused.code == 2
    assert "--overwrite" in refused.errors[0]
    allowed = lmtailor(*words, "--seed", 1, "--overwrite")
    assert allowed.code == 0
    assert json.loads((tmp_path / "out" / "adapter.json").read_text("utf-8"))["provenance"]["seed"] == 1


def test_settings_by_flags_full_names_and_bare_names_are_kept(
    lmtailor: Command, encoder: Path, data: Path, tmp_path: Path
) -> None:
    settings = ("rank=3", "readout.pooling=cls", "training.warmup=0.5", "label_smoothing=0.1", "task.limits.train=10")
    words = [word for text in settings for word in ("--set", text)]
    outcome = lmtailor(*fit_words(encoder, data, tmp_path / "out", "--lr", "1e-3", "--seed", 4, *words))
    assert outcome.code == 0, outcome.err
    manifest = json.loads((tmp_path / "out" / "adapter.json").read_text("utf-8"))
    kept = manifest["provenance"]["settings"]
    assert kept["method"]["rank"] == 3
    assert kept["readout"]["pooling"] == "cls"
    assert kept["objective"]["label_smoothing"] == 0.1
    assert (kept["training"]["warmup"], kept["training"]["lr"], kept["training"]["epochs"]) == (0.5, 1e-3, 1.0)
    assert kept["seed"] == 4
    assert manifest["provenance"]["steps"] == 2  # 10 examples in batches of 8


def test_a_union_of_methods(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    settings = ("--set", "lora.rank=2", "--set", "bitfit.add_missing=true")
    words = fit_words(encoder, data, tmp_path / "out", *settings, method="lora+bitfit")
    assert lmtailor(*words).code == 0
    manifest = json.loads((tmp_path / "out" / "adapter.json").read_text("utf-8"))
    assert manifest["method"]["name"] == "union"
    parts = manifest["method"]["settings"]["parts"]
    assert [part["name"] for part in parts] == ["lora", "bitfit"]
    assert parts[0]["rank"] == 2
    assert parts[1]["add_missing"] is True
    assert lmtailor("predict", encoder, tmp_path / "out", "a text").code == 0
    twice = lmtailor(*fit_words(encoder, data, tmp_path / "two", method="lora+lora"))
    assert twice.code == 2
    assert "stands twice" in twice.errors[0]
    unknown = lmtailor(*fit_words(encoder, data, tmp_path / "two", method="lora+bitfitt"))
    assert "Did you mean bitfit" in unknown.errors[0]


def test_files_without_a_card(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    files = ("--train", data / "train.csv", "--dev", data / "dev.csv", "--test", data / "test.csv", "--text", "sentence")
    words = ("--label", "label", "--metric", "matthews", "--method", "bitfit", "--epochs", 1, "--out", tmp_path / "out")
    outcome = lmtailor("fit", encoder, *files, *words)
    assert outcome.code == 0, outcome.err
    assert set(_table(outcome)) == {("dev", "matthews"), ("test", "matthews")}


def test_dev_is_held_out_where_there_is_none(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    words = ("--train", data / "train.csv", "--text", "sentence", "--dev-fraction", 0.25, "--method", "frozen")
    outcome = lmtailor("fit", encoder, *words, "--epochs", 1, "--out", tmp_path / "out")
    assert _table(outcome)["dev", "accuracy"][2] == "6"


def test_pairs_and_numbers(lmtailor: Command, encoder: Path, tmp_path: Path) -> None:
    rows = [(text, text[::-1], str(i % 5)) for i, (text, _) in enumerate(ROWS["train"])]
    train = write_csv(tmp_path / "train.tsv.csv", ("first", "second", "grade"), rows)
    words = ("--text", "first", "--text", "second", "--label", "grade", "--kind", "regression", "--method", "frozen")
    outcome = lmtailor("fit", encoder, "--train", train, "--dev", train, *words, "--epochs", 1, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert set(_table(outcome)) == {("dev", "pearson"), ("dev", "spearman")}
    answers = lmtailor("predict", encoder, tmp_path / "out", "a good movie", "a bad book").out
    (line,) = answers.splitlines()
    assert set(json.loads(line)) == {"id", "value"}
    assert shlex.split(_next(outcome))[4:] == [rows[0][0], rows[0][1]]


def test_a_verbalizer_from_the_card_or_from_options(lmtailor: Command, decoder: Path, data: Path, tmp_path: Path) -> None:
    card = lmtailor(*fit_words(decoder, data, tmp_path / "card", "--readout", "verbalizer"))
    assert card.code == 0, card.err
    words = ("--pattern", "{sentence} so {mask}", "--word", "neg=sad", "--word", "neg=awful", "--word", "pos=happy")
    own = lmtailor(*fit_words(decoder, data, tmp_path / "own", "--readout", "verbalizer", *words))
    assert own.code == 0, own.err
    kept = [json.loads((tmp_path / name / "adapter.json").read_text("utf-8"))["readout"]["settings"] for name in ("card", "own")]
    assert [one["pattern"] for one in kept] == ["{sentence} it was {mask}", "{sentence} so {mask}"]
    assert kept[1]["words"] == {"neg": ["sad", "awful"], "pos": ["happy"]}


def test_a_log_for_programs(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    lmtailor(*fit_words(encoder, data, tmp_path / "out", "--log", tmp_path / "log.jsonl"))
    events = [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    assert events == ["started", "step", "step", "step", "evaluation", "ended"]


def test_curves_for_tensorboard(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    outcome = lmtailor(*fit_words(encoder, data, tmp_path / "out", "--tensorboard", tmp_path / "curves"))
    assert outcome.code == 0, outcome.err
    assert list((tmp_path / "curves").glob("events.*"))


def test_out_has_a_name_by_default(
    lmtailor: Command, encoder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = fit_words(encoder, data, tmp_path / "unused", method="frozen")
    outcome = lmtailor(*words[: words.index("--out")])
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "adapters" / "films-frozen" / "adapter.json").exists()


def test_the_next_command_loads_the_base_in_the_same_way(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    outcome = lmtailor(*fit_words(encoder, data, tmp_path / "out", "--dtype", "bfloat16"))
    assert outcome.code == 0, outcome.err
    assert _next(outcome).endswith("--dtype bfloat16")


@pytest.mark.slow
def test_interrupted_and_killed_it_goes_on_to_the_same_bits(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    more = ("--epochs", 40, "--set", "checkpoint_every=1", "--set", "eval_every=20", "--log", tmp_path / "log.jsonl")
    words = ["fit", encoder, "--task", data / "card.toml", "--method", "houlsby", "--out", tmp_path / "out", *more]
    interrupted = _stopped(words, tmp_path / "log.jsonl", steps=3, by=signal.SIGINT)
    assert interrupted.code == 2
    assert interrupted.err.splitlines()[-1] == "interrupted; run the same command again to go on"
    assert "Traceback" not in interrupted.err
    assert interrupted.out == ""
    assert not (tmp_path / "out").exists()
    killed = _stopped(words, tmp_path / "log.jsonl", steps=9, by=signal.SIGKILL)
    assert killed.code == -signal.SIGKILL
    assert "resumed at step" in killed.err
    assert not (tmp_path / "out").exists()
    finished = lmtailor(*words)
    assert finished.code == 0, finished.err
    assert "resumed at step" in finished.err
    words[words.index(tmp_path / "out")] = tmp_path / "whole"
    whole = lmtailor(*words)
    assert "resumed" not in whole.err
    assert _tensors(tmp_path / "out") == _tensors(tmp_path / "whole")
    assert _table(finished) == _table(whole)
    assert not list(tmp_path.glob(".*"))


def _stopped(words: list[object], log: Path, *, steps: int, by: signal.Signals) -> Outcome:
    """Run a command in a process of its own, and stop it once its log has this many steps more."""
    command, environment = process(*words)
    before = _steps(log)
    running = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs inherit that it is ignored. Nothing but this runs between fork and exec.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 120
    while _steps(log) < before + steps and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(running.pid, by)
    out, err = running.communicate(timeout=60)
    return Outcome(code=running.returncode, out=out, err=err)


def _steps(log: Path) -> int:
    return log.read_text("utf-8").count('"event": "step"') if log.exists() else 0
