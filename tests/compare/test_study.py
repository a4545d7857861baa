"""The study of sensitivity in a plan: it is read, run after the cells, kept, gone on with, and shown in the report."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import lmtailor.strategies.sensitivity as module
from lmtailor.base.base import Base
from lmtailor.compare.cell import Job, Outcome, answer_alike
from lmtailor.compare.compare import Comparison, compare, open_comparison
from lmtailor.compare.plan import Budget, Cell, Majority, Plan, StudyPlan
from lmtailor.compare.plan_file import plan_from_mapping
from lmtailor.core.errors import InputError
from lmtailor.infer.evaluate import Predictions, predict_examples
from lmtailor.strategies.sensitivity import Sensitivity
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.task import Task
from tests.tiny import tiny_base

WORDS = {"neg": ("bad",), "pos": ("good",)}
PROMPTS = (Prompt(name="was", pattern="{text} it was {mask}", words=WORDS), Prompt(name="so", pattern="{text} so {mask}"))
SMALL = Sensitivity(k=2, sets=2, limit=4)
BASE = {"tiny": {"source": "."}}


@pytest.fixture(scope="module")
def task() -> Task:
    def rows(n: int) -> list[dict[str, object]]:
        return [{"text": f"film {number}", "label": ("neg", "pos")[number % 2]} for number in range(n)]

    found = Task.from_records(text="text", train=rows(12), test=rows(8), name="films")
    return replace(found, prompts=PROMPTS, verbalizer=WORDS)


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("llama")


def runner(job: Job) -> Outcome:
    return answer_alike(job.task, job.splits)


def compared(base: Base, task: Task, out: Path, settings: Sensitivity = SMALL, **changes: object) -> Comparison:
    study = StudyPlan(settings=settings, **changes)  # type: ignore[arg-type]  # bases and prompts
    plan = Plan(cells=(Cell(name="guess", readout=Majority()),), sensitivity=study)
    return compare({"tiny": base}, task, plan=plan, out=out, runner=runner, console=Console(file=io.StringIO()))


def test_its_table_is_read() -> None:
    table = {"prompts": ["was"], "k": 2, "sets": 3, "calibration": {"inputs": ["N/A"]}}
    plan = plan_from_mapping({"bases": BASE, "cells": [{"method": "frozen"}], "sensitivity": table})
    assert plan.sensitivity is not None
    assert (plan.sensitivity.bases, plan.sensitivity.prompts) == (("tiny",), ("was",))
    assert (plan.sensitivity.settings.k, plan.sensitivity.settings.sets) == (2, 3)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"bas": "tiny"}, "sensitivity.bas is not a setting of the study. Did you mean base"),
        ({"base": "tyni"}, "'tyni', which is not there. Known: tiny"),
        ({"base": ["tiny", "tiny"]}, "names something twice"),
        ({"sets": 0}, "sets, orders and limit at least 1"),
        ("tiny", "must be a table"),
    ],
)
def test_what_is_wrong_in_it_is_told(table: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        plan_from_mapping({"bases": BASE, "cells": [{"method": "frozen"}], "sensitivity": table})


def test_several_bases_and_none_named() -> None:
    with pytest.raises(InputError, match="names no base, and there are 2"):
        Plan(cells=(Cell(name="guess", readout=Majority()),), sensitivity=StudyPlan()).resolved({"a": 1, "b": 2})


def test_its_boxes_stand_in_the_report_and_its_record_in_the_folder(base: Base, task: Task, tmp_path: Path) -> None:
    done = compared(base, task, tmp_path / "run")
    (study,) = done.studies
    assert study.record is not None
    assert {(point.template, point.set) for point in study.record.points} == {(name, i) for name in ("was", "so") for i in (0, 1)}
    assert (len(study.record.reference), study.record.split) == (4, "test")
    page = done.to_html().read_text("utf-8")
    assert page.count("How far the prompt decides") == 1
    assert 'id="study-1-boxes-before"' in page
    assert 'id="study-1-boxes-after"' in page
    assert 'href="sensitivity/tiny/report.html"' in page
    assert (tmp_path / "run/sensitivity/tiny/report.html").exists()
    elsewhere = done.to_html(tmp_path / "pages" / "mine.html").read_text("utf-8")
    assert 'href="../run/sensitivity/tiny/report.html"' in elsewhere
    opened = open_comparison(tmp_path / "run")
    assert opened.studies[0].record == study.record


def test_points_are_measured_once(base: Base, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compared(base, task, tmp_path)
    asked: list[int] = []

    def counted(*args: Any, **named: Any) -> Predictions:
        asked.append(1)
        return predict_examples(*args, **named)

    monkeypatch.setattr(module, "predict_examples", counted)
    assert compared(base, task, tmp_path).studies[0].record == first.studies[0].record
    assert asked == []
    compared(base, task, tmp_path, replace(SMALL, sets=3))
    assert len(asked) == 2  # the third set of both templates


def test_it_fails_alone_and_says_why(base: Base, task: Task, tmp_path: Path) -> None:
    done = compared(base, task, tmp_path, replace(SMALL, k=13))
    (study,) = done.studies
    assert study.record is None
    assert "13" in study.reason
    assert [run.record.status for run in done.runs] == ["done"]
    assert f"did not come to its end: {study.reason.split(chr(39))[0][:20]}" in done.to_html().read_text("utf-8")
    assert open_comparison(tmp_path).studies[0].reason == study.reason


def test_an_interrupted_one_is_told_as_such(base: Base, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared(base, task, tmp_path)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "predict_examples", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compared(base, task, tmp_path, replace(SMALL, sets=3))
    assert open_comparison(tmp_path).studies[0].reason == "it was interrupted."
    for file, damage in (("sensitivity.json", b"[" * 100_000), ("error.txt", b"\xff")):
        (tmp_path / "sensitivity" / "tiny" / file).write_bytes(damage)
        assert open_comparison(tmp_path).studies[0].reason == "it was interrupted."


def test_the_total_budget_holds_for_it_too(base: Base, task: Task, tmp_path: Path) -> None:
    plan = Plan(
        cells=(Cell(name="guess", readout=Majority()),),
        sensitivity=StudyPlan(settings=SMALL),
        budget=Budget(total_seconds=1e-9),
    )
    done = compare({"tiny": base}, task, plan=plan, out=tmp_path, runner=runner, console=Console(file=io.StringIO()))
    assert "budget.total_seconds is 1e-09" in done.studies[0].reason


def test_what_cannot_be_asked_is_told_before_anything_runs(base: Base, task: Task, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no pattern named .saw."):
        compared(base, task, tmp_path / "a", prompts=("saw",))
    with pytest.raises(InputError, match="films has none"):
        compared(base, replace(task, prompts=()), tmp_path / "b")
    numbers = [{"text": f"film {number}", "label": float(number)} for number in range(4)]
    values = Task.from_records(text="text", kind="regression", train=numbers, test=numbers, name="stars")
    with pytest.raises(InputError, match="stars is a regression"):
        compared(base, values, tmp_path / "c")
    assert not list(tmp_path.iterdir())
