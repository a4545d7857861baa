"""What cells of a plan minimise: objective, soft labels, and language modelling on unlabelled text."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from lmtailor.base.base import Base
from lmtailor.compare.compare import compare
from lmtailor.compare.plan import Cell
from lmtailor.compare.plan_file import plan_from_mapping
from lmtailor.core.errors import InputError
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.fit.unlabelled import Unlabelled
from lmtailor.methods.bitfit import BitFit
from lmtailor.objectives.distillation import Distillation
from lmtailor.objectives.supervised import Supervised
from lmtailor.tasks.task import Task
from tests.tiny import tiny_base

CELL = {"method": "bitfit", "training": {"max_steps": 2}}


@pytest.fixture(scope="module")
def task() -> Task:
    def rows(n: int) -> list[dict[str, object]]:
        return [
            {"text": f"{('bad', 'good')[number % 2]} film {number}", "label": ("neg", "pos")[number % 2]} for number in range(n)
        ]

    more = [{"text": f"film {number}"} for number in range(6)]
    return Task.from_records(text="text", train=rows(8), dev=rows(4), test=rows(4), unlabelled=more, name="films")


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("bert")


def cells(*tables: dict[str, object], folder: Path = Path(), **more: object) -> tuple[Cell, ...]:
    return plan_from_mapping({"cells": list(tables), "seeds": [0], **more}, folder=folder).cells


def test_a_cell_says_what_it_minimises() -> None:
    entries = {"smooth": {"name": "supervised", "label_smoothing": 0.1}}
    found = cells(
        {**CELL, "name": "a", "objective": "smooth"},
        {**CELL, "name": "b", "objective": {"name": "supervised", "label_smoothing": 0.2}, "unlabelled": {"weight": 1e-3}},
        {**CELL, "name": "c"},
        objectives=entries,
    )
    assert [cell.objective for cell in found] == [Supervised(label_smoothing=0.1), Supervised(label_smoothing=0.2), Supervised()]
    assert [cell.unlabelled for cell in found] == [None, Unlabelled(weight=1e-3), None]
    told = found[1].settings(0)
    assert told["objective"] == {"name": "supervised", "label_smoothing": 0.2}
    assert told["unlabelled"] == {"weight": 1e-3, "batch_size": 12, "masked": 0.15}
    assert {"objective", "unlabelled", "soft_labels"}.isdisjoint(found[2].settings(0))  # as it was before there were such keys


def test_products_and_sweeps_have_names_of_their_own() -> None:
    found = cells(
        {**CELL, "objective": ["supervised", "smooth"]}, objectives={"smooth": {"name": "supervised", "label_smoothing": 0.1}}
    )
    assert [cell.name for cell in found] == ["bitfit · supervised", "bitfit · smooth"]
    swept = cells({**CELL, "unlabelled": {}, "sweep": {"objective.label_smoothing": [0.0, 0.1], "unlabelled.weight": [1e-4]}})
    assert [cell.objective for cell in swept] == [Supervised(), Supervised(label_smoothing=0.1)]
    assert [cell.unlabelled for cell in swept] == [Unlabelled(), Unlabelled()]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"objective": "supervise"}, "no objective 'supervise'. Did you mean supervised"),
        ({"objective": {"name": "supervised", "smoothing": 0.1}}, "smoothing is not a setting of Supervised"),
        ({"objective": "distillation"}, "Say where they are: soft_labels"),
        ({"objective": "distillation", "soft_labels": "nowhere"}, "There are no soft labels in nowhere"),
        ({"unlabelled": {"weight": 2}}, "greater than 0 and less than 1"),
        ({"unlabelled": True}, "must be a table"),
        ({"strategy": "pet", "objective": "supervised"}, "which chooses its own losses. Leave objective out"),
        ({"strategy": "pet", "unlabelled": {}}, "Leave unlabelled out"),
    ],
)
def test_what_does_not_fit_is_told(table: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        cells({"name": "a", "method": "bitfit", **table})


def test_soft_labels_need_an_objective_that_learns_from_them(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text("")
    with pytest.raises(InputError, match='only objective = "distillation" learns from'):
        cells({"name": "a", **CELL, "soft_labels": "answers.jsonl"}, folder=tmp_path)


def test_cells_are_fitted_by_them(base: Base, task: Task, tmp_path: Path) -> None:
    fit(base, task, method=BitFit(), training=Training(max_steps=1), out=tmp_path / "teacher")
    lines = [{"id": n + 1, "scores": {"neg": 0.5, "pos": 0.5}} for n in range(8)]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tables = [
        {**CELL, "name": "smooth", "objective": {"name": "supervised", "label_smoothing": 0.1}, "unlabelled": {"batch_size": 2}},
        {**CELL, "name": "asked", "objective": {"name": "distillation", "temperature": 1.0}, "soft_labels": "teacher"},
        {**CELL, "name": "read", "objective": "distillation", "soft_labels": "answers.jsonl"},
        {"name": "probe without anything to train", "readout": "majority"},
    ]
    plan = plan_from_mapping({"cells": tables, "seeds": [0]}, folder=tmp_path)
    done = compare(base, task, plan=plan, out=tmp_path / "run", console=Console(file=io.StringIO()))
    assert [run.record.reason for run in done.runs if run.record.status == "failed"] == []
    found = {}
    for run in done.runs:
        if run.record.adapter is not None:
            told = json.loads((tmp_path / "run" / run.record.adapter / "adapter.json").read_text("utf-8"))
            found[run.record.cell] = told["provenance"]["settings"]
    assert found["smooth"]["objective"]["label_smoothing"] == 0.1
    assert found["smooth"]["unlabelled"]["batch_size"] == 2
    assert found["asked"]["objective"] == {"name": "distillation", "temperature": 1.0}
    assert len({found[name]["soft_labels"] for name in ("asked", "read")} - {None}) == 2


def test_other_answers_are_another_run(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("1")
    cell = Cell(name="a", objective=Distillation(), soft_labels=tmp_path / "a.jsonl")
    before = cell.settings(0)
    (tmp_path / "a.jsonl").write_text("2")
    assert cell.settings(0) != before


def test_where_nothing_is_trained_they_are_refused(base: Base, task: Task, tmp_path: Path) -> None:
    asked = {"name": "verbalizer", "pattern": "{text} it was {mask}", "words": {"neg": ["bad"], "pos": ["good"]}}
    table = {"name": "a", "readout": asked, "unlabelled": {}}
    plan = plan_from_mapping({"cells": [table], "seeds": [0]})
    done = compare(base, task, plan=plan, out=tmp_path, console=Console(file=io.StringIO()))
    assert "Nothing is trained here" in (done.runs[0].record.reason or "")
