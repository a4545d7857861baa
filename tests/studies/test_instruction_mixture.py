"""The study of a mixture: its file fits its data, and its table is made of what an adapter kept."""

import json
from pathlib import Path

import pytest

from lmtailor.tasks.mixture_file import read_mixture
from studies.instruction_mixture import report

FOLDER = Path(__file__).parents[2] / "studies" / "instruction_mixture"


def _score(value: float) -> dict[str, dict[str, float]]:
    return {"accuracy": {"value": value, "n": 10, "low": value - 0.1, "high": value + 0.1}}


def test_the_file_names_cards_that_are_there_and_holds_a_cluster_out() -> None:
    (source,) = read_mixture(FOLDER / "mixture.toml")
    tasks = source.content.tasks
    assert all((FOLDER / one.card).is_file() for one in tasks)
    assert sum(one.cluster not in source.content.hold_out for one in tasks) == 10
    assert sum(one.cluster in source.content.hold_out for one in tasks) == 3
    assert all(name in source.content.templates for one in tasks for name in one.templates)


def test_the_table_has_tasks_templates_and_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watched = [
        {"step": step, "epoch": 0.0, "scores": {"rte/a": _score(value), "rte/b": _score(value + 0.2), "cb": _score(0.5)}}
        for step, value in ((0, 0.5), (8, 0.6))
    ]
    provenance = {**dict.fromkeys(report.KEPT, 0), "best_step": 8, "watched": watched, "other": 1}
    (tmp_path / "adapter.json").write_text(json.dumps({"provenance": provenance}), encoding="utf-8")
    report.main([str(tmp_path), "--keep", str(tmp_path / "records" / "run.json")])
    out = capsys.readouterr().out
    assert "| held out | template | metric | n | before | step 8, kept |" in out
    assert "| rte | b | accuracy | 10 | 70.0 (60.0 to 80.0) | 80.0 (70.0 to 90.0) |" in out
    assert "| **rte** | mean | accuracy | | 60.0 | 70.0 |" in out
    assert "| cb |  | accuracy | 10 | 50.0 (40.0 to 60.0) | 50.0 (40.0 to 60.0) |" in out
    report.main([str(tmp_path / "records" / "run.json")])
    assert capsys.readouterr().out == out
    assert "other" not in json.loads((tmp_path / "records" / "run.json").read_text("utf-8"))
