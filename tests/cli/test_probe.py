"""`lmtailor probe`."""

import json
from pathlib import Path

from lmtailor.strategies.probing_record import read_probing
from tests.cli.inputs import Command

SHORT = ("--set", "epochs=2", "--set", "controls=[0]")


def test_a_table_a_record_and_a_page(lmtailor: Command, encoder: Path, decoder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("probe", encoder, decoder, "--task", data / "card.toml", *SHORT, "--out", out)
    outcome = lmtailor(*words)
    assert outcome.code == 0, outcome.err
    lines = [line.split("\t") for line in outcome.out.splitlines()]
    assert lines[0][:4] == ["base", "probe", "layer", "accuracy"]
    layers = ["0", "1", "2", "3", "4", "mix"]
    assert [line[2].removesuffix(" *") for line in lines[1:13]] == layers * 2
    assert sum(line[2].endswith(" *") for line in lines[1:13]) == 2
    assert lines[-1] == ["report", str(out / "report.html")]
    record = read_probing(out / "probing.json")
    assert [base.name for base in record.bases] == ["tiny-bert", "tiny-llama"]
    assert "layers-0" in (out / "report.html").read_text("utf-8")
    before = {file.name: file.stat().st_mtime_ns for file in (out / "parts").iterdir()}
    assert len(before) == 2
    again = lmtailor(*words, "--name", "one", "--name", "two", "--json")
    assert again.code == 0, again.err
    assert [base["name"] for base in json.loads(again.out)["bases"]] == ["one", "two"]
    assert {file.name: file.stat().st_mtime_ns for file in (out / "parts").iterdir()} == before


def test_what_cannot_be_asked(lmtailor: Command, encoder: Path, data: Path) -> None:
    task = ("--task", data / "card.toml")
    for words, told in (
        ((encoder, *task, "--split", "tset"), "no split 'tset'"),
        ((encoder, *task, "--set", "epochs=0"), "epochs"),
        ((encoder, *task, "--set", "epoch=3"), "epoch"),
        ((encoder, *task, "--name", "a", "--name", "b"), "1 models and 2 names"),
        ((encoder, encoder, *task), "Two models are called 'tiny-bert'"),
        ((encoder,), "There is no data"),
    ):
        outcome = lmtailor("probe", *words)
        assert outcome.code == 2
        assert told in outcome.errors[0]
