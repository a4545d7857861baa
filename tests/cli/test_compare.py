"""`lmtailor compare`."""

import json
import shlex
import textwrap
from pathlib import Path

import pytest

from tests.cli.inputs import ROWS, Command, write_csv

PLAN = """
task = "data/card.toml"
seeds = [0]

[bases]
tiny = "{base}"

[[cells]]
name = "probe"
method = "frozen"
training = {{ epochs = 1 }}

[[cells]]
name = "bias terms"
method = "bitfit"
training = {{ epochs = 1 }}
"""


@pytest.fixture
def plan(encoder: Path, data: Path, tmp_path: Path) -> Path:
    """A plan of two cells."""
    file = tmp_path / "plan.toml"
    file.write_text(PLAN.format(base=encoder), encoding="utf-8")
    assert data.parent == tmp_path
    return file


def test_a_plan_ends_with_a_leaderboard_a_report_and_commands(lmtailor: Command, plan: Path, tmp_path: Path) -> None:
    outcome = lmtailor("compare", plan, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    for told in ("probe", "bias terms", "majority class", "Recommended:", f"report\t{tmp_path / 'run' / 'report.html'}"):
        assert told in outcome.out
    assert (tmp_path / "run" / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert "seed 0" in outcome.err
    again = lmtailor("compare", plan, "--out", tmp_path / "run")
    assert again.code == 0
    assert "3 runs were done before" in again.err


def test_the_commands_that_it_prints_work(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    plan = tmp_path / "one.toml"
    plan.write_text('baseline = false\nseeds = [1]\n[[cells]]\nmethod = "bitfit"\ntraining = { epochs = 1 }\n', encoding="utf-8")
    words = ("--plan", plan, "--task", data / "card.toml", "--out", tmp_path / "run")
    outcome = lmtailor("compare", encoder, *words, "--set", "task.limits.train=12")
    assert outcome.code == 0, outcome.err
    (folder,) = (tmp_path / "run").glob("runs/*/seed-1/adapter")
    assert f"lmtailor predict {encoder} {folder}" in outcome.out
    assert json.loads(lmtailor("predict", encoder, folder, "a good movie").out)["label"] in ("neg", "pos")


def test_commands_name_the_columns_of_patterns_and_options(lmtailor: Command, decoder: Path, tmp_path: Path) -> None:
    words = ("good", "bad")
    rows = [(f"the film was {words[i % 2]} {i}", f"see it {i}", f"leave it {i}", i % 2) for i in range(16)]
    for split, part in (("train", rows[:8]), ("test", rows[8:])):
        write_csv(tmp_path / f"{split}.csv", ("premise", "yes", "no", "label"), part)
    (tmp_path / "card.toml").write_text(
        '[files]\ntrain = "train.csv"\ntest = "test.csv"\n[columns]\ntext = "premise"\nextra = ["yes", "no"]\n'
        '[[patterns]]\ntext = "{premise} so {mask}"\nname = "so"\noptions = { 0 = "yes", 1 = "no" }\n',
        encoding="utf-8",
    )
    (tmp_path / "plan.toml").write_text(
        f'task = "card.toml"\nseeds = [0]\nbaseline = false\n[bases]\ntiny = "{decoder}"\n[[cells]]\n'
        'readout = { name = "options", pattern_name = "so" }\n',
        encoding="utf-8",
    )
    done = lmtailor("compare", tmp_path / "plan.toml", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    commands = [shlex.split(line) for line in done.out.splitlines() if line.strip().startswith("lmtailor predict ")]
    assert commands[0][-3:] == ["your premise", "your yes", "your no"]
    one = lmtailor(*commands[0][1:])
    assert set(json.loads(one.out)["scores"]) == {"0", "1"}, one.err
    assert commands[1][4:] == ["--file", "rows.csv", ">", "answers.jsonl"]
    python = done.out[done.out.index("    import lmtailor as lt") :]
    assert "lt.predict(base, adapter, [{'premise': 'your premise', 'yes': 'your yes', 'no': 'your no'}])" in python
    exec(textwrap.dedent(python), {})


def test_patterns_are_those_of_the_card_as_it_is_set(lmtailor: Command, decoder: Path, data: Path, tmp_path: Path) -> None:
    card = tmp_path / "bare.toml"
    card.write_text(
        '[columns]\ntext = "sentence"\n[[patterns]]\nname = "data"\ntext = "{sentence} it was {mask}"\n'
        '[verbalizer]\nneg = ["bad"]\npos = ["good"]\n',
        encoding="utf-8",
    )
    cells = '[[cells]]\nreadout = { name = "verbalizer", pattern_name = "data" }\n'
    (tmp_path / "plan.toml").write_text(f'task = "bare.toml"\n[bases]\ntiny = "{decoder}"\n{cells}', encoding="utf-8")
    files = [word for split in ("train", "test") for word in ("--set", f"task.files.{split}={data / f'{split}.csv'}")]
    done = lmtailor("compare", tmp_path / "plan.toml", *files, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    (tmp_path / "other.toml").write_text(f"baseline = false\n{cells}", encoding="utf-8")
    words = ("--plan", tmp_path / "other.toml", "--task", card)
    done = lmtailor("compare", decoder, *words, *files, "--out", tmp_path / "other")
    assert done.code == 0, done.err
    bad = lmtailor("compare", decoder, *words, *files, "--set", "task.patterns=[]", "--out", tmp_path / "third")
    assert "no pattern named 'data'" in bad.errors[0]


def test_notes_on_the_data_are_loud(lmtailor: Command, plan: Path, data: Path, tmp_path: Path) -> None:
    write_csv(data / "test.csv", ("sentence", "label"), [*ROWS["test"], *ROWS["train"][:2]])
    outcome = lmtailor("compare", plan, "--out", tmp_path / "run")
    assert any("test: 2 of 10 examples have a text that is also in train" in line for line in outcome.warnings)


def test_a_cell_that_fails_stops_no_other(lmtailor: Command, plan: Path, tmp_path: Path) -> None:
    plan.write_text(plan.read_text("utf-8").replace('"bitfit"', '{ name = "lora", at = "block.*.attn.{x}" }'), encoding="utf-8")
    outcome = lmtailor("compare", plan, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "Failed: bias terms" in outcome.out
    assert "selects no site" in outcome.out


def test_all_cells_that_fail(lmtailor: Command, encoder: Path, data: Path, tmp_path: Path) -> None:
    plan = tmp_path / "bad.toml"
    cell = '[[cells]]\nmethod = { name = "lora", at = "block.*.attn.{x}" }\n'
    plan.write_text("baseline = false\nseeds = [0]\n" + cell, encoding="utf-8")
    outcome = lmtailor("compare", encoder, "--plan", plan, "--task", data / "card.toml", "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "Every run failed" in outcome.errors[0]


def test_what_cannot_be_compared(lmtailor: Command, encoder: Path, plan: Path, data: Path, tmp_path: Path) -> None:
    for words, told in (
        ((), "Give a plan (lmtailor compare plan.toml)"),
        ((tmp_path / "plann.toml",), "Cannot read the plan"),
        ((plan, "--plan", plan), "are both plans"),
        ((encoder, "--task", data / "card.toml", "--set", "seeds=3"), "is a setting of a plan"),
        ((plan, "--set", "budget.cell_secons=3"), "cell_seconds"),
        ((plan, "--dtype", "bfloat16"), "--dtype is for a base that is given as an argument"),
        ((encoder,), "There is no data"),
    ):
        outcome = lmtailor("compare", *words, "--out", tmp_path / "run")
        assert (outcome.code, outcome.out) == (2, ""), words
        assert told in outcome.errors[0], outcome.errors[0]
        assert not (tmp_path / "run").exists()
