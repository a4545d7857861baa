"""The readout of cells that name none, and plans without a file, for every kind of task."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lmtailor.compare.cell import Job, Outcome
from lmtailor.compare.compare import compare
from lmtailor.compare.default_plan import default_plan, default_readout
from lmtailor.compare.plan_file import plan_from_mapping
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.methods.frozen import Frozen
from lmtailor.readouts.conversation import Chat
from lmtailor.readouts.head import Head
from lmtailor.readouts.options import Options
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.span import Span
from lmtailor.readouts.tagging import Tags
from lmtailor.readouts.text import Text
from lmtailor.tasks.conversations import conversation_task
from lmtailor.tasks.prompt import Prompt
from lmtailor.tasks.task import Task
from tests.tiny import tiny_base

TALK = [{"instruction": f"Say {i}.", "output": "good"} for i in range(4)]
CHOICES = {"0": "yes", "1": "no"}


def made(kind: Any, *answers: object, text: Any = "text", **more: Any) -> Task:
    rows = [
        {"text": f"a good film {i}", "more": "b c", "yes": "see it", "no": "leave it", "answer": answers[i % len(answers)]}
        for i in range(4)
    ]
    return Task.from_records(train=rows, test=rows, kind=kind, text=text, label="answer", name="one", **more)


CASES: Mapping[str, tuple[Task, Readout]] = {
    "classification": (made("classification", "a", "b"), Head()),
    "regression": (made("regression", 0.5, 1.5), Head()),
    "generation": (made("generation", ["fine"]), Text("{text}\n")),
    "conversation": (conversation_task(train=TALK, test=TALK), Chat()),
    "labelling": (made("labelling", "D A N C", "D A N N"), Tags()),
    "span": (made("span", {"text": ["c"], "answer_start": [2]}, text=["text", "more"]), Span()),
    "multiple choice": (
        made(
            "classification",
            0,
            1,
            extra=["yes", "no"],
            patterns=[Prompt(name="so", pattern="{text} so {mask}", options=CHOICES)],
        ),
        Options("{text} so {mask}", CHOICES),
    ),
}


@pytest.mark.parametrize(("task", "readout"), CASES.values(), ids=CASES.keys())
def test_what_a_cell_leaves_out_is_the_readout_of_its_kind(task: Task, readout: Readout, tmp_path: Path) -> None:
    assert default_readout(task) == readout
    asked: list[Job] = []

    def note(job: Job) -> Outcome:
        asked.append(job)
        raise InputError("That is all.")

    plan = plan_from_mapping({"baseline": False, "seeds": [0], "cells": [{"method": "bitfit"}, {"readout": "head", "name": "x"}]})
    compare(tiny_base("llama"), task, plan=plan, out=tmp_path, runner=note, console=Console(file=io.StringIO()))
    assert [(job.cell.name, job.cell.readout) for job in asked] == [("bitfit", readout), ("x", Head())]


@pytest.mark.parametrize(("task", "readout"), CASES.values(), ids=CASES.keys())
def test_without_a_plan_every_kind_is_answered(task: Task, readout: Readout) -> None:
    plan = default_plan(tiny_base("llama"), task, name="tiny")
    trained = [cell for cell in plan.cells if cell.method != Frozen()]
    assert len(trained) >= 3
    assert {type(cell.readout) for cell in trained} == {type(readout)}
    assert plan.cells[0].name == ("zero-shot" if isinstance(readout, Text | Chat | Options) else "probe")
    assert plan.cells[0].readout == readout


def test_choices_need_a_base_that_gives_texts_a_probability() -> None:
    with pytest.raises(UnsupportedError, match="has no LM head"):
        default_plan(tiny_base("bert", head=False), CASES["multiple choice"][0], name="tiny")
