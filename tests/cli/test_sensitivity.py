"""`lmtailor sensitivity`."""

import json
from pathlib import Path

import pytest

from lmtailor.strategies.sensitivity_record import read_sensitivity
from tests.cli.inputs import Command

PATTERNS = """
[[patterns]]
name = "was"
text = "{sentence} it was {mask}"
words = { neg = ["bad"], pos = ["good"] }
[[patterns]]
name = "so"
text = "review: {sentence}\\nso {mask}"
words = { neg = ["sad"], pos = ["fun"] }
"""


@pytest.fixture
def card(data: Path) -> Path:
    text = (data / "card.toml").read_text("utf-8").partition("[[patterns]]")[0].partition("[verbalizer]")[0]
    (data / "named.toml").write_text(text + PATTERNS, "utf-8")
    return data / "named.toml"


def test_a_table_a_record_and_a_page(lmtailor: Command, decoder: Path, card: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("sensitivity", decoder, "--task", card, "--set", "k=2", "--set", "sets=2", "--set", "limit=4", "--out", out)
    outcome = lmtailor(*words, "--split", "dev")
    assert outcome.code == 0, outcome.err
    lines = [line.split("\t") for line in outcome.out.splitlines()]
    assert lines[0][:4] == ["template", "calibration", "points", "accuracy"]
    assert [line[1:3] for line in lines[1:7]] == [["before", "2"], ["after", "2"]] * 2 + [["before", "4"], ["after", "4"]]
    assert lines[7] == ["report", str(out / "report.html")]
    assert "boxes-after" in (out / "report.html").read_text("utf-8")
    record = read_sensitivity(out / "sensitivity.json")
    assert list(record.templates) == ["was", "so"]
    before = {file.name: file.stat().st_mtime_ns for file in (out / "points").iterdir()}
    one = lmtailor(*words, "--split", "dev", "--pattern-name", "so", "--json")
    assert one.code == 0, one.err
    assert list(json.loads(one.out)["templates"]) == ["so"]
    assert {file.name: file.stat().st_mtime_ns for file in (out / "points").iterdir()} == before


def test_seeds_shots_and_no_calibration(lmtailor: Command, decoder: Path, card: Path, tmp_path: Path) -> None:
    words = ("sensitivity", decoder, "--task", card, "--out", tmp_path / "out", "--pattern-name", "was", "--shots", 2)
    more = ("--seed", 3, "--seed", 4, "--set", "k=1", "--set", "sets=1", "--set", "calibration=none", "--split", "dev", "--json")
    outcome = lmtailor(*words, *more)
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert [point["seed"] for point in told["points"]] == [3, 4]
    assert [point["after"] for point in told["points"]] == [None, None]
    assert len(told["reference"]) == 4


def test_what_cannot_be_asked(lmtailor: Command, decoder: Path, card: Path, data: Path) -> None:
    for words, told in (
        (("--task", card, "--pattern-name", "wsa"), "no pattern named 'wsa'. Did you mean was"),
        (("--task", card, "--set", "sets=0"), "sets, orders and limit"),
        (("--task", card, "--set", "set=3"), "set"),
        (("--task", card, "--set", "k=0"), "nothing is drawn"),
        (("--task", card, "--split", "tset"), "no split 'tset'"),
        ((), "There is no data"),
    ):
        outcome = lmtailor("sensitivity", decoder, *words)
        assert outcome.code == 2
        assert told in outcome.errors[0]
