"""`lmtailor fit --mixture`: many tasks in one fit, and held-out tasks before and after it."""

import json
from pathlib import Path

from tests.cli.inputs import Command

MIX = """
hold_out = ["asked"]
dev = 4
watch = 5
[[tasks]]
card = "card.toml"
[[tasks]]
card = "card.toml"
name = "said"
templates = ["said"]
[[tasks]]
card = "held/card.toml"
name = "asked"
templates = ["said"]
[templates.said]
patterns = [{ text = "the review {sentence} is", words = { neg = ["awful"], pos = ["great"] } }]
"""


def _fit(lmtailor: Command, decoder: Path, data: Path, out: Path, *more: object) -> tuple[int, str, str]:
    (data / "mix.toml").write_text(MIX, encoding="utf-8")
    (data / "held").mkdir(exist_ok=True)
    for file in ("card.toml", "train.csv", "dev.csv", "test.csv"):
        (data / "held" / file).write_bytes((data / file).read_bytes())
    words = ("fit", decoder, "--mixture", data / "mix.toml", "--method", "lora", "--epochs", 1, "--batch-size", 8, "--out", out)
    outcome = lmtailor(*words, *more)
    return outcome.code, outcome.out, outcome.err


def test_a_mixture_is_fitted_and_held_out_tasks_are_shown(lmtailor: Command, decoder: Path, data: Path, tmp_path: Path) -> None:
    code, out, err = _fit(lmtailor, decoder, data, tmp_path / "out", "--log", tmp_path / "log.jsonl")
    assert code == 0, err
    rows = [line.split("\t") for line in out.splitlines()]
    assert ["held out", "metric", "before", "after", "n"] in rows
    asked = next(row for row in rows if row[0] == "asked")
    assert (asked[1], asked[4]) == ("accuracy", "5")
    assert "examples of 2 tasks: films" in err
    assert "step 0 · held out asked" in err
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    assert next(event["step"] for event in events if event["event"] == "held out") == 0
    manifest = json.loads((tmp_path / "out" / "adapter.json").read_text("utf-8"))
    first = manifest["provenance"]["watched"][0]["scores"]["asked"]["accuracy"]["value"]
    assert float(asked[2]) == round(first, 4)


def test_settings_of_the_mixture_and_what_contradicts_it(lmtailor: Command, decoder: Path, data: Path, tmp_path: Path) -> None:
    code, _, err = _fit(lmtailor, decoder, data, tmp_path / "out", "--set", "mixture.examples=8", "--set", "rank=2")
    assert code == 0, err
    assert "8 examples of 2 tasks" in err
    for more, said in (
        (("--task", data / "card.toml"), "--task and --mixture are both given"),
        (("--set", "task.seed=1"), "--set task.seed=1 and --mixture"),
        (("--set", "mixture.exampels=8"), "exampels"),
        (("--set", "mixture.hold_out=nothing"), "mix.toml, line 2: there is no task or cluster 'nothing'"),
    ):
        code, _, err = _fit(lmtailor, decoder, data, tmp_path / "other", *more)
        assert code == 2
        assert said in err
    outcome = lmtailor("fit", decoder, "--task", data / "card.toml", "--method", "lora", "--set", "mixture.examples=8")
    assert outcome.code == 2
    assert "mixture.examples=8 is a setting of a mixture, but there is none" in outcome.err
