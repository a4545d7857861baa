"""Strategies that start from other adapters, or train nothing, as cells of a plan."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from lmtailor.base.base import Base
from lmtailor.compare.compare import compare
from lmtailor.compare.plan_file import plan_from_mapping
from lmtailor.core.errors import InputError
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.tasks.task import Task
from tests.tiny import tiny_base

WORDS = {"neg": ["bad"], "pos": ["good"]}
ASKED = {"name": "verbalizer", "pattern": "{text} it was {mask}", "words": WORDS}
SHORT = {"max_steps": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def task() -> Task:
    def rows(n: int) -> list[dict[str, object]]:
        return [
            {"text": f"{('bad', 'good')[number % 2]} film {number}", "label": ("neg", "pos")[number % 2]} for number in range(n)
        ]

    return Task.from_records(text="text", train=rows(8), dev=rows(4), test=rows(4), name="films")


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("gpt2")


def prompt(base: Base, task: Task, folder: Path, length: int = 3) -> None:
    """A soft prompt of another task."""
    readout = Verbalizer(ASKED["pattern"], WORDS)  # type: ignore[arg-type]  # a text
    fit(base, task, method=SoftPrompt(length=length), readout=readout, training=Training(max_steps=1), out=folder)


def searches(base: Base, task: Task, folder: Path, *cells: dict[str, object]) -> dict[str, dict[str, object]]:
    """What each cell's strategy found, by the cell; the plan lies in the folder."""
    plan = plan_from_mapping({"cells": [{"readout": ASKED, **cell} for cell in cells], "seeds": [0]}, folder=folder)
    done = compare({"b": base}, task, plan=plan, out=folder / "run", console=Console(file=io.StringIO()))
    assert [run.record.reason for run in done.runs if run.record.status == "failed"] == []
    found = {}
    for run in done.runs:
        if run.record.adapter is not None:
            told = json.loads((folder / "run" / run.record.adapter / "adapter.json").read_text("utf-8"))
            assert told["provenance"]["settings"]["strategy"]["name"] == run.record.method.partition(" ")[0]
            found[run.record.cell] = told["provenance"]["search"]
    return found


def test_spot_and_a_projected_prompt_with_paths_from_the_plan(base: Base, task: Task, tmp_path: Path) -> None:
    prompt(base, task, tmp_path / "sources" / "near")
    prompt(tiny_base("llama"), task, tmp_path / "sources" / "other", length=2)
    found = searches(
        base,
        task,
        tmp_path,
        {"name": "spot", "strategy": {"name": "spot", "sources": ["sources/near"]}, "training": SHORT},
        {"name": "closest", "strategy": {"name": "spot", "sources": ["sources/near"] * 2, "probe_steps": 1}, "training": SHORT},
        {
            "name": "projected",
            "strategy": {"name": "prompt_projection", "source": "sources/other", "hidden": 4},
            "training": SHORT,
        },
    )
    assert found["spot"]["chosen"] == [0]
    assert found["closest"]["closeness"] is not None
    assert found["projected"]["source"] == str(tmp_path / "sources" / "other")


def test_prompts_that_train_nothing(base: Base, task: Task, tmp_path: Path) -> None:
    found = searches(
        base,
        task,
        tmp_path,
        {"name": "words", "strategy": {"name": "prompted", "text": "is it good or bad"}},
        {"name": "shown", "strategy": {"name": "prompted", "k": 2}},
    )
    assert found["words"]["text"] == "is it good or bad"
    assert len(found["shown"]["demonstrations"]) == 2  # type: ignore[arg-type]  # a list


def test_words_are_found_for_a_cell_s_pattern(task: Task, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na bad film,neg\na good one,pos\n", "utf-8")
    (tmp_path / "card.toml").write_text('[files]\ntrain = "train.csv"\ntest = "train.csv"\n[columns]\ntext = "text"\n', "utf-8")
    readout = {"name": "verbalizer", "pattern": "{text} it was {mask}"}
    plan = plan_from_mapping({"task": "card.toml", "cells": [{"strategy": "lm_bff", "readout": readout}]}, folder=tmp_path)
    asked = plan.cells[0].readout
    assert isinstance(asked, Verbalizer)
    assert asked.pattern == "{text} it was {mask}"
    with pytest.raises(InputError, match="needs words"):
        plan_from_mapping({"task": "card.toml", "cells": [{"strategy": "pet", "readout": readout}]}, folder=tmp_path)
