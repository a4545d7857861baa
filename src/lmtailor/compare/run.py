"""Carry a plan out: every run that is not done yet, each kept as soon as it ends, whatever becomes of the others."""

import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lmtailor.base.base import Base
from lmtailor.compare.answers import measured
from lmtailor.compare.cell import Job, Outcome, Runner
from lmtailor.compare.folder import About, Folder, RunFolder, folder_bytes
from lmtailor.compare.leaderboard import Run
from lmtailor.compare.memory import PeakMemory, quick_collection
from lmtailor.compare.plan import Budget, Cell, Plan
from lmtailor.compare.progress import Reporter
from lmtailor.compare.record import RunRecord
from lmtailor.compare.sizes import sized
from lmtailor.core.errors import DataError, InputError, LMTailorError, TrainingError
from lmtailor.core.files import write_text
from lmtailor.core.provenance import hardware, now, revision, versions
from lmtailor.core.settings import settings_hash, to_mapping
from lmtailor.core.version import __version__
from lmtailor.infer.decoding import Decoding
from lmtailor.tasks.metrics import Scores
from lmtailor.tasks.sample import stratified
from lmtailor.tasks.task import Task

Bases = Mapping[str, Callable[[], Base]]
"""Name → what loads the base."""


def run_plan(
    plan: Plan,
    bases: Bases,
    task: Task,
    folder: Folder,
    *,
    about: About,
    runner: Runner,
    reporter: Reporter,
    retry: bool = True,
) -> list[Run]:
    """Run what is not done yet, in the plan's order of runs, with one base in memory at a time.

    Args:
        plan: with its baseline, and a base for each cell that needs one.
        bases: how each of them is loaded.
        task: with the metrics of the comparison.
        folder: where everything is kept.
        about: what is compared; kept in the folder as soon as there is something to compare.
        runner: carries a run out.
        reporter: is told.
        retry: whether runs that failed before are tried again.

    Raises:
        InputError: no base could be loaded, or the folder cannot be written.
    """
    session = _Session(
        plan=plan,
        tasks=_tasks(plan, task),
        folder=folder,
        about=about,
        runner=runner,
        reporter=reporter,
        retry=retry,
        surroundings={"versions": versions(), "revision": revision(), "hardware": hardware()},
    )
    runs = list(plan.runs())
    found: list[Run] = []
    errors: list[InputError] = []
    names = list(dict.fromkeys(cell.base for cell, _ in runs if cell.base is not None))
    with quick_collection():
        for name in [*names, None]:  # the baseline, which needs no base, comes last
            if name is None and names and len(errors) == len(names):
                raise errors[0]
            base = None if name is None else _loaded(bases[name])
            if isinstance(base, InputError):
                errors.append(base)
            else:
                folder.write_about(about)
            for index, (cell, seed) in enumerate(runs):
                if cell.base == name:
                    remaining = Counter(later.name for later, _ in runs[index + 1 :])
                    found.append(session.run(cell, seed, base, found, remaining))
            del base
    return found


def _loaded(load: Callable[[], Base]) -> Base | InputError:
    """The base, or why there is none."""
    try:
        return load()
    except InputError as error:
        return error


def kept_run(place: RunFolder) -> Run | None:
    """A run as it was kept; None if it did not end, or something of it is missing."""
    record = place.record()
    if record is None:
        return None
    answers = place.answers() if record.status == "done" else {}
    return None if answers is None else Run(record=record, answers=answers)


def lacking(run: Run, about: About) -> str | None:
    """What a run that is done lacks to be compared, such as one of other data; None: nothing."""
    if run.record.status != "done":
        return None
    for split in (about.split, *about.ood):
        if split not in run.answers:
            return f"answers on {split}"
        for metric in about.metrics:
            if metric not in run.record.scores.get(split, {}):
                return f"{metric} on {split}"
    return None


def _written(place: RunFolder, run: Run, blank: RunRecord) -> Run:
    """The run as it is kept: with texts that are too large to keep it has failed.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        place.write(run.record, run.answers)
    except DataError as error:
        run = Run(record=replace(blank, reason=str(error), seconds=run.record.seconds, provenance=run.record.provenance))
        place.write(run.record, run.answers)
    return run


def budgeted(task: Task, budget: Budget, seed: int) -> Task:
    """The task as a run of this seed sees it: with few shots of its own draw, or with a limited training split.

    Raises:
        InputError: see `Task.few_shot`.
    """
    if budget.shots is not None:
        return task.few_shot(budget.shots, seed, unlabelled=budget.unlabelled)
    return limited(task, budget.train_examples)


def limited(task: Task, count: int | None) -> Task:
    """The task with at most so many training examples, a fixed sample stratified by label in classification."""
    train = task.splits.get("train")
    if train is None or count is None or len(train) <= count:
        return task
    strata = list(train.labels) if task.kind == "classification" else [0] * len(train)
    chosen = stratified(strata, [example.id for example in train], count, seed=0, name="budget")
    examples = tuple(train.examples[index] for index in chosen)
    return replace(task, splits={**task.splits, "train": replace(train, examples=examples)})


def _tasks(plan: Plan, task: Task) -> dict[tuple[int, int | None], Task]:
    """For each seed, and each number of training examples that a cell asks for, the task as such runs see it."""
    asked = dict.fromkeys((seed, cell.examples) for cell, seed in plan.runs())
    whole = {seed: budgeted(task, plan.budget, seed) for seed, _ in asked}
    return {(seed, count): whole[seed] if count is None else sized(whole[seed], count, seed) for seed, count in asked}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Session:
    """What all runs of one call share."""

    plan: Plan
    tasks: Mapping[tuple[int, int | None], Task]
    """Seed and training examples → the task as such runs see it."""
    folder: Folder
    about: About
    runner: Runner
    reporter: Reporter
    retry: bool
    surroundings: Mapping[str, object]

    def run(self, cell: Cell, seed: int, base: Base | InputError | None, before: Sequence[Run], remaining: Counter[str]) -> Run:
        """One run: as it was, if it is done, else carried out and kept."""
        place = self.folder.run(cell.name, seed)
        settings = self._settings(cell, seed, base)
        digest = settings_hash(settings)
        kept = self._kept(place, digest)
        if kept is not None:
            kept = replace(kept, record=replace(kept.record, cell=cell.name, base=cell.base or ""))
            self.reporter.reused(kept.record)
            return kept
        self.reporter.started(cell.name, seed)
        began = time.monotonic()
        blank = RunRecord(
            cell=cell.name,
            base=cell.base or "",
            readout=cell.readout_name,
            method=cell.method_name,
            seed=seed,
            settings=settings,
            digest=digest,
            status="failed",
            base_parameters=base.num_parameters if isinstance(base, Base) else 0,
            provenance={**self.surroundings, "begun": now()},
        )
        if isinstance(base, InputError):  # what an earlier call kept stays: with the base back, it may be good
            run = Run(record=replace(blank, reason=str(base)))
        else:
            place.claim(digest)
            run = self._carried_out(cell, seed, base, place, blank, sum(run.record.seconds for run in before))
            run = replace(run, record=replace(run.record, seconds=time.monotonic() - began))
            run = _written(place, run, blank)
        self.reporter.finished(run.record, time.monotonic() - began, remaining)
        return run

    def _settings(self, cell: Cell, seed: int, base: Base | InputError | None) -> dict[str, object]:
        """All that a run's result depends on."""
        task = self.tasks[seed, cell.examples]
        about: dict[str, object] = {"fingerprint": base.fingerprint, "dtype": str(base.dtype)} if isinstance(base, Base) else {}
        return {
            "base": about,
            "task": {
                "data": task.digest,
                "metrics": list(task.metrics),
                "split": self.about.split,
                "ood": list(task.ood),
            },
            **cell.settings(seed),
            "seed": seed,
            "batch_size": self.plan.batch_size,
            "cell_seconds": self.plan.budget.cell_seconds,
            "lmtailor": __version__,
            **({"decoding": to_mapping(self.plan.decoding or Decoding())} if task.kind == "generation" else {}),
        }

    def _kept(self, place: RunFolder, digest: str) -> Run | None:
        """The run, if it ended before with the same settings and need not be tried again."""
        run = kept_run(place)
        if run is None or run.record.digest != digest or (run.record.status == "failed" and self.retry):
            return None
        return None if lacking(run, self.about) else run

    def _carried_out(self, cell: Cell, seed: int, base: Base | None, place: RunFolder, blank: RunRecord, spent: float) -> Run:
        """The run with its record. Whatever it dies of is its reason; only an interruption goes through."""
        memory = PeakMemory(torch.device("cpu") if base is None else base.device)
        try:
            self._refuse_late(spent)
            job = Job(
                cell=cell,
                seed=seed,
                base=base,
                task=self.tasks[seed, cell.examples],
                split=self.about.split,
                folder=place,
                seconds=self.plan.budget.cell_seconds,
                batch_size=self.plan.batch_size,
                tick=self.reporter.tick,
                decoding=self.plan.decoding if self.tasks[seed, cell.examples].kind == "generation" else None,
            )
            with memory:
                outcome = self.runner(job)
            return self._done(job.task, place, blank, outcome, memory)
        except Exception as error:  # noqa: BLE001 - one cell must not take the others with it
            write_text(place.path / "error.txt", "".join(traceback.format_exception(error)))
            reason = str(error) if isinstance(error, LMTailorError) else f"{type(error).__name__}: {error}"
            return Run(record=replace(blank, reason=reason, provenance={**blank.provenance, "ended": now()}))

    def _refuse_late(self, spent: float) -> None:
        total = self.plan.budget.total_seconds
        if total is not None and spent >= total:
            raise TrainingError(
                f"It was not begun: the runs before took {spent:.0f} s, and budget.total_seconds is {total:g}. "
                "Raise it and run the comparison again."
            )

    def _done(self, task: Task, place: RunFolder, blank: RunRecord, outcome: Outcome, memory: PeakMemory) -> Run:
        scores = {split: measured(task, one) for split, one in outcome.answers.items()}
        dev: dict[str, Scores] = {} if outcome.dev is None else {"dev": outcome.dev}
        record = replace(
            blank,
            status="done",
            scores=dev | scores,
            touches=outcome.touches,
            trained_parameters=outcome.trained_parameters,
            fit_seconds=outcome.fit_seconds,
            predict_seconds=outcome.predict_seconds,
            peak_memory=memory.resident,
            device_memory=memory.device,
            disk_bytes=folder_bytes(place.adapter) if outcome.saved else 0,
            history=outcome.history,
            adapter=place.adapter.relative_to(self.folder.path).as_posix() if outcome.saved else None,
            notes=outcome.notes,
            provenance={**blank.provenance, "ended": now()},
        )
        return Run(record=record, answers=outcome.answers)
