"""Carrying a plan out: what is done again and what is not, what fails and what stops, with a runner that only pretends."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lmtailor.base.base import Base
from lmtailor.compare.answers import Answers
from lmtailor.compare.cell import Job, Outcome, answer_alike
from lmtailor.compare.compare import Comparison, compare, open_comparison
from lmtailor.compare.folder import Folder
from lmtailor.compare.plan import BaseSource, Budget, Cell, Plan
from lmtailor.compare.plan_file import plan_from_mapping
from lmtailor.compare.record import Point
from lmtailor.compare.run import limited
from lmtailor.core.errors import InputError, TrainingError
from lmtailor.fit.training import Training
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.head import Head
from lmtailor.tasks.metrics import paired_difference
from lmtailor.tasks.task import Task
from tests.tiny import tiny_model, tiny_tokenizer

LABELS = ("negative", "neutral", "positive")
BASE_SOURCE = BaseSource(source="models/there")


def records(name: str, n: int) -> list[dict[str, object]]:
    return [{"text": f"{name} {number}", "label": LABELS[number % 3 if number % 5 else 0]} for number in range(n)]


@pytest.fixture(scope="module")
def task() -> Task:
    parts = {name: records(name, n) for name, n in (("train", 30), ("dev", 12), ("test", 60))}
    return Task.from_records(text="text", **parts, ood={"reviews": records("reviews", 24)}, name="tweets")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def base() -> Base:
    return Base.from_model(tiny_model("bert"), tiny_tokenizer("encoder"), "models/tiny")


@dataclass
class Pretend:
    """A runner that answers by a seeded coin, and notes what it was asked."""

    asked: list[tuple[str, int]] = field(default_factory=list)
    dies: Callable[[Job], None] = lambda job: None

    def __call__(self, job: Job) -> Outcome:
        self.asked.append((job.cell.name, job.seed))
        if job.cell.is_baseline:
            return answer_alike(job.task, job.splits)
        (job.folder.adapter).mkdir(parents=True, exist_ok=True)
        (job.folder.adapter / "weights").write_bytes(b"x" * 100)
        self.dies(job)
        rng = np.random.default_rng([job.seed, len(job.cell.name)])
        answers = {}
        for split in job.splits:
            truth = np.array(job.task.split(split).labels)
            right = rng.random(len(truth)) < 0.7
            answers[split] = Answers(predicted=np.where(right, truth, (truth + 1) % 3), reference=truth)
        job.tick("step", 1, 1)
        return Outcome(
            answers=answers,
            touches=("projections",),
            trained_parameters=123,
            fit_seconds=4.5,
            predict_seconds=0.5,
            history=(Point(step=1, epoch=1.0, loss=0.9, score=0.5, seconds=2.0),),
            saved=True,
            notes=("the trunk was cached",),
        )


PLAN = Plan(cells=(Cell(name="probe", seeds=(0, 1)), Cell(name="LoRA", method=LoRA(rank=4), seeds=(0, 1))))


@pytest.fixture
def run(base: Base, task: Task, tmp_path: Path) -> Callable[..., Comparison]:
    def go(runner: Pretend, plan: Plan = PLAN, **options: object) -> Comparison:
        chosen = {"base": base, "task": task, "out": tmp_path / "out", "console": Console(file=io.StringIO()), **options}
        return compare(plan=plan, runner=runner, **chosen)  # type: ignore[arg-type]

    return go


def test_every_cell_and_seed_runs_once_and_is_kept(run: Callable[..., Comparison], tmp_path: Path, base: Base) -> None:
    runner = Pretend()
    done = run(runner)
    assert runner.asked == [("probe", 0), ("LoRA", 0), ("probe", 1), ("LoRA", 1), ("majority class", 0)]
    record = next(one.record for one in done.runs if (one.record.cell, one.record.seed) == ("LoRA", 1))
    assert record.adapter is not None
    assert (tmp_path / "out" / record.adapter / "weights").is_file()
    assert (record.disk_bytes, record.trained_parameters, record.base_parameters) == (100, 123, base.num_parameters)
    assert record.settings["method"]["rank"] == 4
    assert record.settings["training"]["lr"] == LoRA.recipe.lr, "what the recipe says is resolved"
    assert record.peak_memory > 10_000_000
    assert set(record.scores) == {"test", "reviews"}
    assert record.provenance["versions"]["torch"]
    assert {row.cell for row in done.leaderboard.rows} == {"probe", "LoRA", "majority class"}
    assert done.winner is done.leaderboard.best


def test_what_is_done_is_not_done_again(run: Callable[..., Comparison], tmp_path: Path) -> None:
    first, second = Pretend(), Pretend()
    before, after = run(first), run(second)
    assert second.asked == []
    assert after.leaderboard == before.leaderboard
    assert open_comparison(tmp_path / "out").leaderboard == before.leaderboard


def test_changed_settings_run_again_and_leave_the_others_alone(run: Callable[..., Comparison], tmp_path: Path) -> None:
    run(Pretend())
    stale = Folder(tmp_path / "out").run("LoRA", 0).path / "stale"
    stale.touch()
    changed = replace(PLAN, cells=(PLAN.cells[0], replace(PLAN.cells[1], method=LoRA(rank=8))))
    runner = Pretend()
    run(runner, changed)
    assert runner.asked == [("LoRA", 0), ("LoRA", 1)]
    assert not stale.exists()
    more = replace(changed, cells=tuple(replace(cell, seeds=(0, 1, 2)) for cell in changed.cells))
    runner = Pretend()
    run(runner, more)
    assert runner.asked == [("probe", 2), ("LoRA", 2)]


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 4},
        {"metrics": ("accuracy",)},
        {"budget": Budget(train_examples=9)},
        {"budget": Budget(shots=2)},
        {"cells": (replace(PLAN.cells[0], training=Training(epochs=9)), replace(PLAN.cells[1], readout=Head(pooling="cls")))},
    ],
    ids=["batch size", "metrics", "training examples", "shots", "training and readout"],
)
def test_whatever_a_result_depends_on_is_part_of_its_settings(run: Callable[..., Comparison], change: dict[str, object]) -> None:
    run(Pretend())
    runner = Pretend()
    run(runner, replace(PLAN, **change))  # type: ignore[arg-type]
    assert {cell for cell, _ in runner.asked} >= {"probe", "LoRA"}


def test_a_failed_run_is_kept_with_its_reason_and_stops_no_other(run: Callable[..., Comparison], tmp_path: Path) -> None:
    def dies(job: Job) -> None:
        if (job.cell.name, job.seed) == ("probe", 0):
            raise TrainingError("The loss is nan at step 3.")
        if job.cell.name == "LoRA":
            raise ZeroDivisionError("division by zero")

    done = run(Pretend(dies=dies))
    assert [(r.cell, r.seed, r.reason) for r in done.leaderboard.failures] == [
        ("probe", 0, "The loss is nan at step 3."),
        ("LoRA", 0, "ZeroDivisionError: division by zero"),
        ("LoRA", 1, "ZeroDivisionError: division by zero"),
    ]
    assert "in dies" in (Folder(tmp_path / "out").run("LoRA", 0).path / "error.txt").read_text()
    assert done.leaderboard.row("probe").failed == (0,)
    assert [row.cell for row in done.leaderboard.rows] == ["probe", "majority class"]
    assert list(done.frame(runs=True)["status"]).count("failed") == 3


def test_failed_runs_are_tried_again_unless_told_not_to(run: Callable[..., Comparison]) -> None:
    def dies(job: Job) -> None:
        if job.cell.name == "LoRA":
            raise TrainingError("No.")

    run(Pretend(dies=dies))
    runner = Pretend()
    kept = run(runner, retry=False)
    assert runner.asked == []
    assert len(kept.leaderboard.failures) == 2
    run(runner)
    assert runner.asked == [("LoRA", 0), ("LoRA", 1)]


def test_an_interruption_stops_and_loses_nothing(run: Callable[..., Comparison]) -> None:
    def dies(job: Job) -> None:
        if (job.cell.name, job.seed) == ("LoRA", 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Pretend(dies=dies))
    runner = Pretend()
    resumed = run(runner)
    assert runner.asked == [("LoRA", 0), ("probe", 1), ("LoRA", 1), ("majority class", 0)]
    assert not resumed.leaderboard.failures


def test_what_an_interrupted_run_left_is_still_there_when_it_goes_on(run: Callable[..., Comparison]) -> None:
    def dies(job: Job) -> None:
        checkpoint = job.folder.path / ".adapter.checkpoint"
        if not checkpoint.exists():
            checkpoint.touch()
            raise KeyboardInterrupt

    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run(Pretend(dies=dies))
    assert not run(Pretend(dies=dies)).leaderboard.failures


def test_a_damaged_record_counts_as_none(run: Callable[..., Comparison], tmp_path: Path) -> None:
    run(Pretend())
    folder = Folder(tmp_path / "out")
    (folder.run("probe", 0).path / "record.json").write_text('{"cell": "probe"')
    (folder.run("probe", 1).path / "predictions.safetensors").write_bytes(b"no")
    record = folder.run("LoRA", 0).path / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "strange": 1}))
    runner = Pretend()
    run(runner)
    assert runner.asked == [("probe", 0), ("LoRA", 0), ("probe", 1)]


def test_the_total_budget_keeps_late_runs_from_starting(run: Callable[..., Comparison]) -> None:
    runner = Pretend()
    done = run(runner, replace(PLAN, budget=Budget(total_seconds=1e-9)))
    assert runner.asked == [("probe", 0)]
    assert all("budget.total_seconds" in str(record.reason) for record in done.leaderboard.failures)


def test_a_base_that_cannot_be_loaded_fails_its_cells_and_destroys_nothing(
    run: Callable[..., Comparison], base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = replace(PLAN, cells=(replace(PLAN.cells[0], base="here"), replace(PLAN.cells[1], base="there")))
    run(Pretend(), two, base={"here": base, "there": base})
    kept = Folder(tmp_path / "out").run("LoRA", 0).record()

    def refuse(*_: object, **__: object) -> Base:
        raise InputError("There is no such model.")

    monkeypatch.setattr(sys.modules[compare.__module__], "load_base", refuse)
    from_file = replace(two, bases={"there": BASE_SOURCE})
    runner = Pretend()
    done = run(runner, from_file, base={"here": base})
    assert runner.asked == []
    assert [(r.cell, r.reason) for r in done.leaderboard.failures] == [("LoRA", "There is no such model.")] * 2
    assert Folder(tmp_path / "out").run("LoRA", 0).record() == kept
    only = replace(from_file, cells=(from_file.cells[1],))
    with pytest.raises(InputError, match="There is no such model"):
        run(runner, only, base=None, out=tmp_path / "new")
    assert not (tmp_path / "new").exists(), "nothing is half-written"


def test_one_base_is_loaded_at_a_time_and_once(
    run: Callable[..., Comparison], monkeypatch: pytest.MonkeyPatch, base: Base
) -> None:
    loaded: list[str] = []

    def load(source: str, **_: object) -> Base:
        loaded.append(source)
        return base

    monkeypatch.setattr(sys.modules[compare.__module__], "load_base", load)
    cells = tuple(replace(cell, base=name) for cell, name in zip(PLAN.cells, ("a", "b"), strict=True))
    sources = {name: replace(BASE_SOURCE, source=f"models/{name}") for name in ("a", "b", "unused")}
    run(Pretend(), replace(PLAN, cells=cells, bases=sources), base=None)
    assert loaded == ["models/a", "models/b"]


def test_lines_without_a_terminal(run: Callable[..., Comparison]) -> None:
    text = io.StringIO()
    run(Pretend(), console=Console(file=text, width=100))
    lines = text.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("[1/5] probe, seed 0: accuracy 0.")
    assert "fit 4.50" in lines[0]
    assert "left" in lines[0]
    assert "left" not in lines[-1]
    text.truncate(0)
    run(Pretend(), console=Console(file=text, width=100))
    assert text.getvalue().strip("\0\n") == "5 runs were done before."


def test_bars_in_a_terminal(run: Callable[..., Comparison]) -> None:
    text = io.StringIO()
    run(Pretend(), console=Console(file=text, width=100, force_terminal=True))
    assert "5/5 runs" in text.getvalue()
    assert "LoRA, seed 1" in text.getvalue()


def test_fewer_training_examples_keep_all_labels(task: Task) -> None:
    small = limited(task, 6)
    train = small.split("train")
    assert len(train) == 6
    assert set(train.labels) == {0, 1, 2}
    assert limited(task, 6).digest == small.digest
    assert limited(task, 30) is limited(task, None) is task


def test_each_seed_draws_its_own_few_shots(run: Callable[..., Comparison], task: Task) -> None:
    seen: dict[tuple[str, int], Task] = {}

    def note(job: Job) -> None:
        seen[job.cell.name, job.seed] = job.task

    comparison = run(Pretend(dies=note), replace(PLAN, budget=Budget(shots=2, unlabelled=7)))
    assert seen["probe", 0].digest == task.few_shot(2, 0, unlabelled=7).digest == seen["LoRA", 0].digest
    assert seen["probe", 1].digest == task.few_shot(2, 1, unlabelled=7).digest != seen["probe", 0].digest
    assert comparison.about.sizes == {"train": 6, "dev": 6, "test": 60, "unlabelled": 7, "reviews": 24}
    runner = Pretend()
    run(runner, PLAN, shots=2)
    assert len(runner.asked) >= 4
    runner = Pretend()
    run(runner, replace(PLAN, budget=Budget(shots=2)))
    assert runner.asked == []


SIZES = {"sizes": [6, 12, 24], "seeds": [0, 1], "cells": [{"name": "LoRA", "method": "lora"}, {"name": "probe", "sizes": []}]}


def test_training_sizes_are_runs_of_their_own_and_resume_as_others_do(run: Callable[..., Comparison], task: Task) -> None:
    seen: dict[tuple[str, int], Task] = {}

    def note(job: Job) -> None:
        first = (job.cell.name, job.seed) not in seen
        seen[job.cell.name, job.seed] = job.task
        if first and (job.cell.name, job.seed) == ("LoRA · 12 examples", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Pretend(dies=note), plan_from_mapping(SIZES))
    runner = Pretend(dies=note)
    done = run(runner, plan_from_mapping(SIZES))
    assert runner.asked == [(f"LoRA · {n} examples", 1) for n in (12, 24)] + [("probe", 1), ("majority class", 0)]
    assert [len(seen[f"LoRA · {n} examples", 1].split("train")) for n in (6, 12, 24)] == [6, 12, 24]
    assert seen["probe", 1].digest == task.digest
    train = [{one.id for one in seen[f"LoRA · {n} examples", 0].split("train")} for n in (6, 12, 24)]
    assert train[0] < train[1] < train[2]
    assert done.about.sizes["train"] == 30
    runner = Pretend()
    more = run(runner, plan_from_mapping(SIZES | {"sizes": [6, 24, 30]}))
    assert runner.asked == [("LoRA · 30 examples", 0), ("LoRA · 30 examples", 1)]
    assert {row.cell for row in more.leaderboard.rows} == {"LoRA · 30 examples", "probe", "majority class"}


def test_a_route_is_ranked_at_its_largest_size_and_the_others_are_kept(run: Callable[..., Comparison], tmp_path: Path) -> None:
    done = run(Pretend(), plan_from_mapping(SIZES | {"reference": "LoRA"}))
    board = open_comparison(tmp_path / "out").leaderboard
    assert board == done.leaderboard
    assert {row.cell for row in board.rows} == {"LoRA · 24 examples", "probe", "majority class"}
    assert [row.cell for row in board.unranked] == ["LoRA · 6 examples", "LoRA · 12 examples"]
    assert board.about.reference == "LoRA · 24 examples"
    assert board.row("probe").to_reference is not None
    assert [one.cell for one in board.ood] == [max(board.rows[:2], key=lambda row: row.on("reviews").value).cell]  # type: ignore[union-attr]
    assert board.unranked[0].on("reviews") is not None
    frame = done.frame().set_index("cell")
    assert list(frame["ranked"]) == [True] * 3 + [False] * 2
    assert frame["examples"]["LoRA · 6 examples"] == 6
    assert frame["examples"]["probe"] == 30
    assert frame["tied_with_best"]["LoRA · 6 examples"] is None
    assert done.commands("LoRA · 6 examples") is not None


def test_more_examples_than_there_are_stop_before_any_run(run: Callable[..., Comparison], tmp_path: Path) -> None:
    runner = Pretend()
    with pytest.raises(InputError, match="LoRA · 31 examples asks for 31 training examples, and train has 30"):
        run(runner, plan_from_mapping(SIZES | {"sizes": [6, 31]}))
    with pytest.raises(InputError, match="shots say how much is trained on too"):
        run(runner, plan_from_mapping(SIZES), shots=2)
    assert runner.asked == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ({"shots": 2, "train_examples": 9}, "both say how much"),
        ({"unlabelled": 2}, "goes with budget.shots"),
        ({"shots": 0}, "must be greater than 0"),
    ],
)
def test_a_budget_that_contradicts_itself(budget: dict[str, int], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Budget(**budget)


def test_what_must_be_there(run: Callable[..., Comparison], task: Task, base: Base, tmp_path: Path) -> None:
    bare = {name: task.splits[name] for name in ("train",)}
    with pytest.raises(InputError, match="neither a labelled test split nor a dev split"):
        run(Pretend(), task=replace(task, splits=bare, ood=()))
    with pytest.raises(InputError, match="no train split"):
        run(Pretend(), task=replace(task, splits={"test": task.splits["test"]}, ood=()))
    with pytest.raises(InputError, match="There is no task"):
        run(Pretend(), task=None)
    with pytest.raises(InputError, match="names no base, and there are 2"):
        run(Pretend(), base={"a": base, "b": base})
    elsewhere = replace(PLAN, cells=(replace(PLAN.cells[0], base="a"),))
    with pytest.raises(InputError, match="The base 'b' is given, but no cell of the plan is on it; they are on a"):
        run(Pretend(), elsewhere, base={"a": base, "b": base})
    with pytest.raises(InputError, match="holds no comparison"):
        open_comparison(tmp_path / "nothing")


def test_dev_ranks_where_there_is_no_test_split(run: Callable[..., Comparison], task: Task) -> None:
    done = run(Pretend(), task=replace(task, splits={name: task.splits[name] for name in ("train", "dev")}, ood=()))
    assert done.about.split == "dev"
    assert done.leaderboard.rows[0].score.n == 12


def test_the_frame_has_a_row_a_cell(run: Callable[..., Comparison]) -> None:
    done = run(Pretend())
    frame = done.frame()
    assert list(frame["cell"]) == [row.cell for row in done.leaderboard.rows]
    assert frame["test_macro_f1"][0] == done.leaderboard.rows[0].scores["test"]["macro_f1"].value
    assert frame["recommended"].sum() <= 1


def test_commands_name_the_adapter_and_the_base(run: Callable[..., Comparison], tmp_path: Path) -> None:
    done = run(Pretend())
    found = done.commands("LoRA")
    assert found is not None
    assert f"models/tiny {tmp_path / 'out'}/runs/" in found.lines[0]
    assert "lt.predict(base, adapter, ['your text'])" in found.python
    assert done.commands("majority class") is None


def test_runs_of_other_data_are_not_taken_for_those_of_the_comparison(
    run: Callable[..., Comparison], task: Task, tmp_path: Path
) -> None:
    def stop(job: Job) -> None:
        raise KeyboardInterrupt

    run(Pretend())
    undone = replace(task, splits={name: task.splits[name] for name in ("train", "dev", *task.ood)})
    with pytest.raises(KeyboardInterrupt):
        run(Pretend(dies=stop), task=undone)
    with pytest.raises(InputError, match=r"seed-1 has no answers on dev, which the comparison needs"):
        open_comparison(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        run(Pretend(dies=stop), task=replace(task, metrics=("matthews",)))
    with pytest.raises(InputError, match="has no matthews on test"):
        open_comparison(tmp_path / "out")


def test_answers_that_lack_a_split_run_again(run: Callable[..., Comparison], tmp_path: Path) -> None:
    run(Pretend())
    place = Folder(tmp_path / "out").run("LoRA", 1)
    record, answers = place.record(), place.answers()
    assert record is not None
    assert answers is not None
    place.write(record, {"reviews": answers["reviews"]})
    runner = Pretend()
    run(runner)
    assert runner.asked == [("LoRA", 1)]


def test_seeds_with_dev_sets_of_their_own_are_compared_seed_by_seed(run: Callable[..., Comparison], task: Task) -> None:
    undone = replace(task, splits={"train": task.splits["train"]}, ood=())
    cells = (*PLAN.cells, Cell(name="once", method=LoRA(rank=2), seeds=(1,)), Cell(name="apart", method=LoRA(rank=3), seeds=(7,)))
    done = run(Pretend(), replace(PLAN, cells=cells, reference="once"), task=undone, shots=3)
    own = {(one.record.cell, one.record.seed): one.answers["dev"] for one in done.runs}
    other, once = own["LoRA", 1], own["once", 1]
    assert isinstance(other, Answers)
    assert isinstance(once, Answers)
    assert done.about.drawn
    row = done.leaderboard.row("LoRA")
    assert row.to_reference == paired_difference("accuracy", other.predicted, once.predicted, other.reference)
    assert done.leaderboard.row("apart").to_reference is None
    assert done.to_html().is_file()
    assert not run(Pretend()).about.drawn
