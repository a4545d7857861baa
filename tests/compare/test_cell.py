"""One run for real: fit, answers, costs, and going on after an interruption, on tiny random models."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lmtailor.base.base import Base
from lmtailor.compare.answers import Answers
from lmtailor.compare.cell import Job, Outcome, answer_alike, run_cell, touches
from lmtailor.compare.compare import Comparison, compare
from lmtailor.compare.default_plan import default_plan, proposed_verbalizer
from lmtailor.compare.folder import RunFolder
from lmtailor.compare.plan import Cell, Majority, Plan
from lmtailor.compare.plan_file import plan_from_mapping
from lmtailor.compare.record import Touch
from lmtailor.core.errors import TrainingError
from lmtailor.fit.training import Training
from lmtailor.methods import catalogue
from lmtailor.methods.full import Full
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.demonstrations import Demonstrations
from lmtailor.readouts.head import Head
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.folder import load_adapter
from lmtailor.tasks.task import Task
from tests.strategies.two_fits import TwoFits
from tests.tiny import tiny_model, tiny_tokenizer

WORDS = {"negative": ("bad", "sad", "worst", "boring"), "positive": ("good", "fun", "best", "love")}
SHORT = Training(epochs=2, batch_size=8, checkpoint_every=1)
ASKED = Verbalizer("{text} sentiment {mask}", {"negative": ("bad",), "positive": ("good",)})


def records(n: int, *, seed: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for number in range(n):
        label = ("negative", "positive")[number % 2]
        rows.append(
            {"text": f"the movie was {rng.choice(WORDS[label])} {rng.choice(['cat', 'dog'])} {seed} {number}", "label": label}
        )
    return rows


@pytest.fixture(scope="module")
def task() -> Task:
    return Task.from_records(
        text="text",
        train=records(24, seed=0),
        dev=records(10, seed=1),
        test=records(20, seed=2),
        ood={"other": records(8, seed=3)},
        name="moods",
    )


@pytest.fixture(scope="module")
def bases() -> Mapping[str, Base]:
    return {
        "encoder": Base.from_model(tiny_model("bert"), tiny_tokenizer("encoder"), "tiny-bert"),
        "decoder": Base.from_model(tiny_model("llama"), tiny_tokenizer("decoder"), "tiny-llama"),
    }


def job(cell: Cell, base: Base | None, task: Task, folder: Path, *, seconds: float | None = None, seed: int = 0) -> Job:
    return Job(
        cell=cell,
        seed=seed,
        base=base,
        task=task,
        split="test",
        folder=RunFolder(folder),
        seconds=seconds,
        batch_size=4,
        tick=lambda what, done, total: None,
    )


def test_a_trained_cell_gives_answers_history_costs_and_an_adapter(bases: Mapping[str, Base], task: Task, tmp_path: Path) -> None:
    base = bases["encoder"]
    done = run_cell(job(Cell(name="LoRA", readout=Head(), method=LoRA(rank=2), training=SHORT), base, task, tmp_path))
    assert set(done.answers) == {"test", "other"}
    answers = done.answers["test"]
    assert isinstance(answers, Answers)
    assert answers.predicted.dtype.kind == "i"
    assert list(answers.reference) == list(task.split("test").labels)
    assert [point.step for point in done.history] == [3, 6]
    assert all(point.score is not None and point.loss is not None and point.seconds > 0 for point in done.history)
    assert done.touches == ("projections",)
    adapter = load_adapter(tmp_path / "adapter", base)
    assert done.trained_parameters == adapter.num_parameters
    assert done.fit_seconds > 0
    assert done.predict_seconds > 0
    assert done.dev == adapter.scores["dev"]
    assert (tmp_path / "log.jsonl").read_text().count('"evaluation"') == 2


def test_a_prompted_cell_trains_nothing_and_is_saved(bases: Mapping[str, Base], task: Task, tmp_path: Path) -> None:
    done = run_cell(job(Cell(name="zero-shot", readout=ASKED), bases["decoder"], task, tmp_path))
    assert (done.trained_parameters, done.fit_seconds, done.touches, done.history) == (0, 0.0, (), ())
    assert load_adapter(tmp_path / "adapter", bases["decoder"]).labels == ("negative", "positive")


def test_a_cell_by_a_strategy_ends_in_an_adapter_too(bases: Mapping[str, Base], task: Task, tmp_path: Path) -> None:
    cell = Cell(name="two", strategy=TwoFits(), training=SHORT)
    assert (cell.readout, cell.method, cell.readout_name, cell.method_name) == (None, None, "", "two_fits")
    ticks: list[str] = []
    done = run_cell(replace(job(cell, bases["encoder"], task, tmp_path), tick=lambda what, step, total: ticks.append(what)))
    assert done.trained_parameters == load_adapter(tmp_path / "adapter", bases["encoder"]).num_parameters > 0
    assert done.touches == ("projections",)
    assert done.fit_seconds > 0
    assert {"fitting", "step", "text"} <= set(ticks)
    settings = cell.settings(0)
    assert settings["strategy"] == {"name": "two_fits", "rank": 2, "stop_after": None}
    assert "readout" not in settings
    named = Cell(name="two", strategy=TwoFits(), method=LoRA(rank=4))
    assert named.method_name == "two_fits · lora"


def test_each_seed_shows_its_own_demonstrations(bases: Mapping[str, Base], task: Task, tmp_path: Path) -> None:
    few = Cell(name="few", readout=replace(ASKED, demonstrations=Demonstrations(k=1, per_class=True)))
    shown = []
    for seed in (0, 1):
        run_cell(job(few, bases["decoder"], task, tmp_path / str(seed), seed=seed))
        readout = load_adapter(tmp_path / str(seed) / "adapter", bases["decoder"]).readout
        assert isinstance(readout, Verbalizer)
        assert readout.demonstrations is not None
        shown.append(readout.demonstrations.shown)
    assert shown[0] != shown[1]


def test_where_the_built_in_methods_act(bases: Mapping[str, Base]) -> None:
    found: dict[str, tuple[Touch, ...]] = {}
    for name in ("frozen", "full", "top_layers", "lora", "houlsby", "prefix", "soft_prompt"):
        found[name] = touches(catalogue()[name]().edits(bases["encoder"].sites, None))
    assert found == {
        "frozen": (),
        "full": ("weights",),
        "top_layers": ("weights",),
        "lora": ("projections",),
        "houlsby": ("hidden",),
        "prefix": ("prefix",),
        "soft_prompt": ("prefix",),
    }


def test_the_baseline_gives_the_most_frequent_training_label(task: Task) -> None:
    rows = [{"text": str(number), "label": label} for number, label in enumerate("abbbaac")]
    three = Task.from_records(text="text", train=rows, test=rows, name="letters")
    done = answer_alike(three, ["test"])
    assert set(done.answers["test"].predicted) == {0}, "a and b are equally frequent; the first label is taken"
    assert "'a', 43% of the training split" in done.notes[0]
    numbers = [{"text": str(number), "label": float(number)} for number in range(5)]
    mean = answer_alike(Task.from_records(text="text", train=numbers, test=numbers, kind="regression", name="n"), ["test"])
    assert set(mean.answers["test"].predicted) == {2.0}


def test_a_fit_over_its_time_stops_and_can_go_on(bases: Mapping[str, Base], task: Task, tmp_path: Path) -> None:
    cell = Cell(name="LoRA", readout=Head(), method=LoRA(rank=2), training=SHORT)
    with pytest.raises(TrainingError, match=r"budget\.cell_seconds"):
        run_cell(job(cell, bases["encoder"], task, tmp_path, seconds=1e-9))
    assert not (tmp_path / "adapter" / "adapter.json").exists()
    assert run_cell(job(cell, bases["encoder"], task, tmp_path)).saved


def _compared(bases: Mapping[str, Base], task: Task, out: Path, runner: object = run_cell) -> Comparison:
    plan = Plan(
        cells=(
            Cell(name="probe", base="encoder", training=replace(SHORT, epochs=4), seeds=(0, 1)),
            Cell(name="full", base="encoder", method=Full(), training=SHORT, seeds=(0,)),
            Cell(name="zero-shot", base="decoder", readout=ASKED),
        )
    )
    quiet = Console(file=io.StringIO())
    return compare(dict(bases), task, plan=plan, out=out, console=quiet, runner=runner)  # type: ignore[arg-type]


def test_a_comparison_killed_anywhere_ends_with_the_same_bits(bases: Mapping[str, Base], task: Task, tmp_path: Path) -> None:
    """Every third step the process is as if killed; the same call goes on until it is through."""
    steps = 0

    def killed(job: Job) -> Outcome:
        def tick(what: str, done: int, total: int) -> None:
            nonlocal steps
            steps += 1
            if steps % 3 == 0:
                raise KeyboardInterrupt

        return run_cell(replace(job, tick=tick))

    whole = _compared(bases, task, tmp_path / "whole")
    for _ in range(200):
        try:
            pieces = _compared(bases, task, tmp_path / "pieces", killed)
            break
        except KeyboardInterrupt:
            continue
    else:
        pytest.fail("the comparison did not get on")
    assert steps > 20
    assert not whole.leaderboard.failures
    assert pieces.leaderboard.failures == ()
    for one, other in zip(whole.runs, pieces.runs, strict=True):
        assert one.record.scores == other.record.scores
        if one.record.adapter is None:
            continue
        files = sorted((tmp_path / "whole" / one.record.adapter).glob("*.safetensors"))
        assert files
        for file in files:
            assert file.read_bytes() == (tmp_path / "pieces" / one.record.adapter / file.name).read_bytes()


def test_a_plan_from_a_table_runs_every_kind_of_cell(bases: Mapping[str, Base], task: Task, tmp_path: Path) -> None:
    plan = plan_from_mapping(
        {
            "seeds": [0],
            "trainings": {"short": {"epochs": 1, "batch_size": 12}},
            "readouts": {
                "asked": {
                    "name": "verbalizer",
                    "pattern": "{text} sentiment {mask}",
                    "words": {"negative": ["bad"], "positive": ["good"]},
                }
            },
            "cells": [
                {"base": ["encoder", "decoder"], "readout": ["head", "asked"], "method": ["lora", "prefix"], "training": "short"},
                {"base": "encoder", "readout": {"name": "head", "layer": 99}, "name": "no such layer", "training": "short"},
            ],
        }
    )
    done = compare(dict(bases), task, plan=plan, out=tmp_path, console=Console(file=io.StringIO()))
    assert [record.cell for record in done.leaderboard.failures] == ["no such layer"]
    assert len(done.leaderboard.rows) == 9
    assert done.to_html().read_text("utf-8").startswith("<!doctype html>")


def test_without_a_plan_all_methods_are_compared(bases: Mapping[str, Base], task: Task) -> None:
    names = [cell.name for cell in default_plan(bases["encoder"], task, name="encoder").cells]
    assert names[0] == "probe"
    assert {"full", "lora", "bitfit", "houlsby", "prefix", "soft_prompt"} < set(names)
    assert names[-2:] == ["zero-shot", "4 demonstrations a label"]
    headless = Base.from_model(tiny_model("bert", head=False), tiny_tokenizer("encoder"), "headless")
    assert "zero-shot" not in [cell.name for cell in default_plan(headless, task, name="encoder").cells]
    assert not any(isinstance(cell.readout, Majority) for cell in default_plan(headless, task, name="x").cells)


def test_prompts_are_proposed_only_where_labels_are_words(task: Task) -> None:
    found = proposed_verbalizer(task)
    assert found is not None
    assert found.words == {"negative": ("negative",), "positive": ("positive",)}
    rows = [{"text": str(number), "label": number % 2} for number in range(4)]
    digits = Task.from_records(text="text", train=rows, test=rows, name="digits")
    assert proposed_verbalizer(digits) is None
    said = Task.from_records(
        text="text", train=rows, test=rows, name="d", patterns=["{text} It was {mask}."], verbalizer={"0": ["bad"], "1": ["good"]}
    )
    found = proposed_verbalizer(said)
    assert found is not None
    assert (found.pattern, found.words) == ("{text} It was {mask}.", {"0": ("bad",), "1": ("good",)})


def test_sizes_sweeps_and_bases_for_real(bases: Mapping[str, Base], task: Task, tmp_path: Path) -> None:
    plan = plan_from_mapping(
        {
            "seeds": [0, 1],
            "trainings": {"short": {"epochs": 1, "batch_size": 8}},
            "cells": [
                {
                    "base": ["encoder", "decoder"],
                    "method": {"name": "lora", "rank": 2},
                    "training": "short",
                    "sizes": [1, 12],
                    "name": "LoRA on {base}",
                },
                {
                    "base": "decoder",
                    "method": {"name": "prefix", "length": 1},
                    "training": "short",
                    "seeds": [0],
                    "sweep": {"method.length": [1, 3]},
                    "name": "prefix",
                },
            ],
        }
    )
    done = compare(bases, task, plan=plan, out=tmp_path / "out", console=Console(file=io.StringIO()))
    assert not done.leaderboard.failures
    assert {row.cell for row in done.leaderboard.rows} == {
        "LoRA on encoder · 12 examples",
        "LoRA on decoder · 12 examples",
        "prefix · length 1",
        "prefix · length 3",
        "majority class",
    }
    lengths = [done.leaderboard.row(f"prefix · length {length}").trained_parameters for length in (1, 3)]
    assert 0 < lengths[0] < lengths[1]
    assert {run.record.settings.get("examples") for run in done.runs if "LoRA" in run.record.cell} == {1, 12}
    again = compare(bases, task, plan=plan, out=tmp_path / "out", console=Console(file=(said := io.StringIO())))
    assert "11 runs were done before." in said.getvalue()
    assert again.leaderboard == done.leaderboard
    page = done.to_html().read_text("utf-8")
    assert all(f'<figure id="{name}">' in page for name in ("sizes", "sweep-0", "bases"))
