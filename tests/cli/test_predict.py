"""`lmtailor predict`."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmtailor.base.load import load_base
from lmtailor.cli import app
from lmtailor.infer.predict import predict
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.head import Head
from lmtailor.store.adapter import new_adapter
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.tasks.task import Task
from tests.cli.inputs import Command, Outcome, process, write_csv
from tests.readouts.examples import sentiment_task

TEXTS = ["a good movie", "the worst book, not fun", "so so", "great fun"]


@pytest.fixture(scope="module")
def adapters(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of one task that answer differently, and one for pairs."""
    folder, base = tmp_path_factory.mktemp("adapters"), load_base(encoder)
    pairs = Task.from_records(
        text=["first", "second"],
        train=[{"first": "a", "second": "b", "label": "no"}, {"first": "c", "second": "d", "label": "yes"}],
    )
    made = {
        "lora": new_adapter(base, method=LoRA(rank=2), readout=Head(), task=sentiment_task(), seed=1),
        "bitfit": new_adapter(base, method=BitFit(), readout=Head(), task=sentiment_task(), seed=2),
        "pairs": new_adapter(base, method=BitFit(), readout=Head(), task=pairs, seed=3),
    }
    for name, adapter in made.items():
        moved = {key: tensor.detach() + 0.2 for key, tensor in adapter.state.items()}
        save_adapter(adapter.with_state(moved), folder / name)
    return {name: folder / name for name in made}


def _lines(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def _typed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_arguments_stdin_and_files_give_the_same_answers(
    lmtailor: Command, encoder: Path, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("predict", encoder, adapters["lora"])
    given = _lines(lmtailor(*words, *TEXTS))
    assert [line["id"] for line in given] == [1, 2, 3, 4]
    base = load_base(encoder)
    expected = predict(base, load_adapter(adapters["lora"], base), TEXTS)
    for line, answer in zip(given, expected, strict=True):
        assert line["label"] == answer.label
        assert line["scores"] == pytest.approx(dict(answer.scores), abs=1e-6)
    _typed(monkeypatch, "\ufeff".encode() + "\r\n".join(TEXTS).encode())
    assert _lines(lmtailor(*words)) == given
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    assert _lines(lmtailor(*words, "--file", tmp_path / "texts.txt")) == given
    write_csv(tmp_path / "texts.csv", ("sentence", "more"), [(text, "x") for text in TEXTS])
    assert _lines(lmtailor(*words, "--file", tmp_path / "texts.csv")) == given
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"review": text}) for text in TEXTS), encoding="utf-8")
    assert _lines(lmtailor(*words, "--file", tmp_path / "texts.jsonl", "--text", "review")) == given


def test_ids_of_a_file_are_kept(lmtailor: Command, encoder: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"id": key, "sentence": "fun"} for key in ("a/1", 7)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    outcome = lmtailor("predict", encoder, adapters["lora"], "--file", tmp_path / "texts.jsonl")
    assert [line["id"] for line in _lines(outcome)] == ["a/1", 7]


def test_pairs_are_two_arguments_or_have_a_tab_between(
    lmtailor: Command, encoder: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("predict", encoder, adapters["pairs"])
    given = _lines(lmtailor(*words, "a cat", "a dog", "good", "bad"))
    assert len(given) == 2
    _typed(monkeypatch, b"a cat\ta dog\ngood\tbad\n")
    assert _lines(lmtailor(*words)) == given
    odd = lmtailor(*words, "a cat", "a dog", "good")
    assert odd.code == 2
    assert "The adapter reads first, second: give 2 texts for each input. There are 3." in odd.errors[0]
    _typed(monkeypatch, b"a cat\ta dog\na cat\n")
    assert "stdin, line 2 has 1 texts" in lmtailor(*words).errors[0]


def test_rows_of_a_file_name_their_adapters(lmtailor: Command, encoder: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    solo = {name: _lines(lmtailor("predict", encoder, adapters[name], *TEXTS)) for name in ("lora", "bitfit")}
    names = ["bitfit", "lora", "lora", "bitfit"]
    file = write_csv(tmp_path / "rows.csv", ("sentence", "adapter"), list(zip(TEXTS, names, strict=True)))
    both = [word for name in ("lora", "bitfit") for word in ("--adapter", f"{name}={adapters[name]}")]
    mixed = _lines(lmtailor("predict", encoder, *both, "--file", file))
    assert [line["adapter"] for line in mixed] == names
    for row, (line, name) in enumerate(zip(mixed, names, strict=True)):
        assert line["scores"] == pytest.approx(solo[name][row]["scores"], abs=1e-5)
    assert solo["lora"][0]["scores"] != pytest.approx(solo["bitfit"][0]["scores"], abs=1e-3)
    write_csv(file, ("sentence", "adapter"), [("fun", "lroa")])
    wrong = lmtailor("predict", encoder, *both, "--file", file)
    assert wrong.code == 2
    assert "line 2: there is no adapter 'lroa'. Did you mean lora?" in wrong.errors[0]
    clash = lmtailor("predict", encoder, *both, "--adapter", f"pairs={adapters['pairs']}", "--file", file)
    assert "pairs reads first, second" in clash.errors[0]


def test_more_inputs_than_are_read_at_once(
    lmtailor: Command, encoder: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [TEXTS[i % 4] for i in range(1100)]
    _typed(monkeypatch, "\n".join(texts).encode())
    lines = _lines(lmtailor("predict", encoder, adapters["lora"], "--batch-size", 256))
    assert [line["id"] for line in lines] == list(range(1, 1101))
    assert lines[1096]["scores"] == pytest.approx(lines[0]["scores"], abs=1e-5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"good\n\nbad\n", "stdin, line 2 is an empty text"),
        (b"good\ncaf\xe9\n", "stdin, line 2 is not utf-8: byte 0xe9. Name what it is with --encoding"),
    ],
)
def test_lines_that_are_no_texts(
    lmtailor: Command,
    encoder: Path,
    adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    text: bytes,
    told: str,
) -> None:
    _typed(monkeypatch, text)
    outcome = lmtailor("predict", encoder, adapters["lora"])
    assert (outcome.code, outcome.out) == (2, "")
    assert told in outcome.errors[0]


def test_what_cannot_be_predicted(lmtailor: Command, encoder: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    lora = adapters["lora"]
    (tmp_path / "texts.txt").write_text("good\n", encoding="utf-8")
    write_csv(tmp_path / "texts.csv", ("sentense",), [("good",)])
    (tmp_path / "texts.pdf").write_bytes(b"%PDF")
    for words, told in (
        ((encoder,), "Give one adapter after the base"),
        ((encoder, lora, "good", "--file", tmp_path / "texts.txt"), "leave --file"),
        ((encoder, lora, "good", "--batch-size", "0"), "--batch-size"),
        ((encoder, lora, ""), "Argument 1 is an empty text"),
        ((encoder, lora, "--file", tmp_path / "nothing.txt"), "No such file or directory"),
        ((encoder, lora, "--file", tmp_path / "nothing.csv"), "no such file"),
        ((encoder, lora, "--file", tmp_path / "texts.pdf"), "no known suffix (.txt"),
        ((encoder, lora, "--file", tmp_path / "texts.txt", "--text", "a"), "Lines have no columns"),
        ((encoder, lora, "--file", tmp_path / "texts.txt", "--encoding", "utf-9"), "no encoding 'utf-9'"),
        ((encoder, lora, "--file", tmp_path / "texts.csv"), "Did you mean sentense?"),
        ((encoder, lora, "--file", tmp_path / "texts.csv", "--text", "a", "--text", "b"), "--text names 2 columns"),
        ((encoder, "--adapter", lora), "Write NAME=FOLDER"),
        ((encoder, "--adapter", f"a={lora}"), "need --file"),
        ((encoder, "--adapter", f"a={lora}", "--file", tmp_path / "texts.txt"), "Lines have no columns"),
        ((encoder, "--adapter", f"a={lora}", "--file", tmp_path / "texts.csv"), "sentense"),
    ):
        outcome = lmtailor("predict", *words)
        assert (outcome.code, outcome.out) == (2, ""), words
        assert told in outcome.errors[0]


def test_a_reader_that_stops_early(
    encoder: Path, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("good\n" * 600, encoding="utf-8")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        code = app.run(["predict", str(encoder), str(adapters["lora"]), "--file", str(tmp_path / "texts.txt")])
    assert code == 141
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_head_in_a_pipeline(encoder: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("good\n" * 1500, encoding="utf-8")
    words, environment = process("predict", encoder, adapters["lora"], "--file", tmp_path / "texts.txt", "--batch-size", 256)
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert json.loads(running.stdout.readline())["id"] == 1
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(60) == 141
