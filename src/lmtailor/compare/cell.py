"""One run: fit a cell with one seed, and let it answer on every split that counts."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmtailor.base.base import Base
from lmtailor.compare.answers import AnyAnswers, answers_of
from lmtailor.compare.baseline import baseline_answers
from lmtailor.compare.folder import RunFolder
from lmtailor.compare.plan import Cell, Majority
from lmtailor.compare.record import Point, Touch
from lmtailor.core.errors import InputError, TrainingError
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import HiddenEdit, NormEdit, PrefixEdit, ProjectionEdit, PromptEdit, WeightEdit
from lmtailor.fit.callbacks.callback import Ended, Evaluated, Started, Stepped
from lmtailor.fit.callbacks.jsonl import JsonlCallback
from lmtailor.fit.fit import fit
from lmtailor.fit.teacher import soft_labels_from
from lmtailor.infer.decoding import Decoding
from lmtailor.infer.evaluate import plain_adapter, predict_examples
from lmtailor.objectives.supervised import Supervised
from lmtailor.readouts.labels import LabelSet
from lmtailor.store.adapter import Adapter, build_adapter
from lmtailor.store.folder import save_adapter
from lmtailor.strategies.adapt import adapt
from lmtailor.tasks.metrics import Scores
from lmtailor.tasks.task import Task

Tick = Callable[[str, int, int], None]
"""Called with what goes on, how much is done, and of how much."""

_KINDS: tuple[tuple[tuple[type, ...], Touch], ...] = (
    ((WeightEdit,), "weights"),
    ((ProjectionEdit, NormEdit), "projections"),
    ((HiddenEdit,), "hidden"),
    ((PrefixEdit, PromptEdit), "prefix"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What one run is to do."""

    cell: Cell
    seed: int
    base: Base | None
    """None for the baseline."""
    task: Task
    """With the metrics of the comparison and the training examples of its budget."""
    split: str
    """The split that ranks."""
    folder: RunFolder
    seconds: float | None
    """The most that the fit may take."""
    batch_size: int
    tick: Tick
    decoding: Decoding | None = None
    """How text is written; None where none is."""

    @property
    def splits(self) -> tuple[str, ...]:
        """What is answered: the split that ranks and the out-of-domain sets."""
        return (self.split, *self.task.ood)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What one run gave."""

    answers: Mapping[str, AnyAnswers]
    """Split → answers."""
    dev: Scores | None = None
    """Scores on dev, as the fit measured them."""
    touches: tuple[Touch, ...] = ()
    trained_parameters: int = 0
    fit_seconds: float = 0.0
    """0 if nothing was trained."""
    predict_seconds: float = 0.0
    """For the split that ranks."""
    history: tuple[Point, ...] = ()
    saved: bool = False
    """Whether an adapter is in the run's folder."""
    notes: tuple[str, ...] = ()


Runner = Callable[[Job], Outcome]
"""What carries a run out."""


def run_cell(job: Job) -> Outcome:
    """Fit and answer.

    Raises:
        InputError: the cell does not fit the base or the task.
        TrainingError: the loss is not a number, or the budget is used up.
    """
    if isinstance(job.cell.readout, Majority):
        return answer_alike(job.task, job.splits)
    assert job.base is not None
    base, task = job.base, job.task
    watch = Watch(job.tick, job.seconds)
    adapter = _adapted(job, base, watch)
    answers, seconds, cut = _answers(job, base, adapter, watch)
    known = adapter.provenance
    return Outcome(
        answers=answers,
        dev=adapter.scores.get("dev"),
        touches=touches(adapter.edits),
        trained_parameters=adapter.num_parameters,
        fit_seconds=float(known.get("seconds", 0.0)),
        predict_seconds=seconds,
        history=_history(known.get("history", ()), task.choosing),
        saved=True,
        notes=(*known.get("notes", ()), *cut),
    )


def _adapted(job: Job, base: Base, watch: "Watch") -> Adapter:
    """The cell's adapter, in the run's folder."""
    cell, task, folder = job.cell, job.task, job.folder
    readout, listeners = cell.seeded(job.seed), (JsonlCallback(folder.log), watch)
    assert not isinstance(readout, Majority)
    if cell.strategy is not None:
        return adapt(
            base,
            task,
            strategy=cell.strategy,
            method=cell.method,
            readout=readout,
            training=cell.training,
            seed=job.seed,
            out=folder.adapter,
            callbacks=listeners,
            tell=watch.told,
        )
    assert readout is not None
    assert cell.method is not None
    if build_adapter(base, cell.method, readout, LabelSet.of(task), None, task).num_parameters:
        soft = None if cell.soft_labels is None else soft_labels_from(cell.soft_labels, base, task, batch_size=job.batch_size)
        return fit(
            base,
            task,
            method=cell.method,
            readout=readout,
            objective=cell.objective,
            soft_labels=soft,
            unlabelled=cell.unlabelled,
            training=cell.training,
            seed=job.seed,
            out=folder.adapter,
            callbacks=listeners,
        )
    if cell.objective != Supervised() or cell.unlabelled is not None:
        raise InputError("Nothing is trained here, so an objective or unlabelled texts have no effect. Leave them out.")
    adapter = plain_adapter(base, task, readout, seed=job.seed)
    save_adapter(adapter, folder.adapter)
    return adapter


def answer_alike(task: Task, splits: Sequence[str]) -> Outcome:
    """What the baseline gives; see `baseline`."""
    answers, note = baseline_answers(task, splits)
    return Outcome(answers=answers, notes=(note,))


def touches(edits: Edits) -> tuple[Touch, ...]:
    """Where edits act, by their kinds."""
    found = {touch: None for edit in edits for kinds, touch in _KINDS if isinstance(edit, kinds)}
    return tuple(found)


class Watch:
    """A callback that passes on how far a fit is, and stops it when its time is over."""

    def __init__(self, tick: Tick, seconds: float | None) -> None:
        self._tick, self._seconds, self._began, self._steps = tick, seconds, time.monotonic(), 0

    def started(self, event: Started) -> None:
        """Remember how many steps there are."""
        self._steps = event.steps

    def stepped(self, event: Stepped) -> None:
        """See `Callback`.

        Raises:
            TrainingError: the time is over.
        """
        self._tick("step", event.step, self._steps)
        self._check()

    def evaluated(self, event: Evaluated) -> None:
        """Nothing: the steps say enough."""

    def ended(self, event: Ended) -> None:
        """Nothing: the run's record says it."""

    def told(self, what: str, done: int, total: int) -> None:
        """Pass on how far a strategy is.

        Raises:
            TrainingError: the time is over.
        """
        self._tick(what, done, total)
        self._check()

    def answered(self, done: int, total: int) -> None:
        """Pass on how far the answers are."""
        self._tick("text", done, total)

    def _check(self) -> None:
        taken = time.monotonic() - self._began
        if self._seconds is not None and taken > self._seconds:
            raise TrainingError(
                f"The fit took {taken:.0f} s, more than the {self._seconds:g} s of budget.cell_seconds. Its last checkpoint "
                "is kept: run the comparison again to go on from it, or raise the budget."
            )


def _answers(job: Job, base: Base, adapter: Adapter, watch: Watch) -> tuple[dict[str, AnyAnswers], float, list[str]]:
    """Answers on every split, the seconds for the one that ranks, and what was cut."""
    answers: dict[str, AnyAnswers] = {}
    seconds, notes = 0.0, []
    for split in job.splits:
        began = time.monotonic()
        examples = job.task.split(split).examples
        predictions = predict_examples(
            base, adapter, examples, batch_size=job.batch_size, decoding=job.decoding, progress=watch.answered
        )
        if split == job.split:
            seconds = time.monotonic() - began
        answers[split] = answers_of(job.task, split, predictions.predicted)
        if predictions.cut:
            count, first = f"{len(predictions.cut)} of {len(examples)}", predictions.cut[0]
            notes.append(f"{count} texts of {split} were cut to the model's length, first {first}")
    return answers, seconds, notes


def _history(entries: Sequence[Mapping[str, Any]], metric: str) -> tuple[Point, ...]:
    return tuple(
        Point(
            step=int(entry["step"]),
            epoch=float(entry["epoch"]),
            loss=float(entry["loss"]),
            score=None if metric not in entry["scores"] else float(entry["scores"][metric]),
            seconds=float(entry["seconds"]),
        )
        for entry in entries
    )
