"""The studies: plans that can be read, and the table of their runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from lmtailor.compare.plan_file import read_plan
from studies import table as script

FOLDER = Path(__file__).parents[2] / "studies"


def record(cell: str, seed: int, score: float | None, begun: str) -> dict[str, Any]:
    """What a run leaves, as far as the table reads it."""
    return {
        "cell": cell,
        "base": "tiny",
        "seed": seed,
        "status": "failed" if score is None else "done",
        "scores": {} if score is None else {"test": {"accuracy": {"value": score, "n": 10}}},
        "trained_parameters": 1234,
        "fit_seconds": 2.0,
        "predict_seconds": 0.5,
        "provenance": {"begun": begun},
    }


def test_the_table_has_means_and_sample_deviations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        record("prompt-based, LoRA", 13, 0.7, "2"),
        record("prompt-based, LoRA", 21, 0.9, "3"),
        record("zero-shot", 13, 0.6, "1"),
        record("broken", 13, None, "4"),
    ]
    for run in runs:
        file = tmp_path / "out" / "runs" / run["cell"] / f"seed-{run['seed']}" / "record.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(run), "utf-8")
    script.main([str(tmp_path / "out"), "--keep", str(tmp_path / "kept")])
    shown = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines()]
    assert [row[0] for row in rows[2:]] == ["zero-shot", "prompt-based, LoRA", "broken"]
    assert rows[3] == ["prompt-based, LoRA", "tiny", "1,234", "80.0", "14.1", "70.0, 90.0", "2 s", "0.5 s"]
    assert rows[2][3:6] == ["60.0", "", ""]
    assert rows[4][3] == "failed"
    assert len(list((tmp_path / "kept").iterdir())) == 4
    script.main([str(tmp_path / "kept")])
    assert capsys.readouterr().out == shown, "the records that are kept give the same table"


def test_the_table_of_texts_has_a_column_for_each_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, (bleu, points) in enumerate([(0.25, (9.0, 5.0, 6.0)), (0.35, (8.0, 7.0))]):
        run = record("prefix", seed, 0.0, str(seed))
        run |= {
            "scores": {"test": {"bleu": {"value": bleu}, "cider": {"value": 1.5}}},
            "history": [{"score": one} for one in points],
        }
        (tmp_path / f"{seed}.json").write_text(json.dumps(run), "utf-8")
    (tmp_path / "2.json").write_text(json.dumps(record("broken", 0, None, "9")), "utf-8")
    script.main([str(tmp_path), "--metric", "bleu", "--metric", "cider"])
    assert capsys.readouterr().out.splitlines() == [
        "| route | trained | bleu | cider | perplexity on dev | fit |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| prefix | 1,234 | 0.3 ± 0.071 | 1.5 ± 0 | 6 ± 1.4 | 2 s |",
        "| broken | | failed | | | |",
    ]


@pytest.mark.parametrize(("name", "cells"), [("e2e/plan", 13), ("e2e/tune", 15), ("e2e_prefix/plan", 11)])
def test_the_plans_of_e2e_can_be_read(name: str, cells: int) -> None:
    plan = read_plan(FOLDER / f"{name}.toml", overrides=["bases.smollm2.source=tiny"])
    assert len(plan.cells) == cells
    assert plan.task is not None
    assert plan.task.samefile(FOLDER / "e2e" / "card.toml")
    assert plan.decoding is not None
    assert plan.decoding.stop == ("\n",)


@pytest.mark.parametrize("name", ["plan", "tune"])
def test_the_plans_can_be_read(name: str) -> None:
    plan = read_plan(FOLDER / "sst2_16_shots" / f"{name}.toml", overrides=["bases.minilm.source=tiny"])
    assert plan.budget.shots == 16
    assert plan.task == FOLDER / "sst2_16_shots" / "card.toml"
