"""The study of sensitivity in a plan: it runs after the cells, once a base, and is kept in the comparison's folder.

Whatever it dies of is told in the report and takes no cell with it. Points that were measured are kept, so that it goes on
where it was when the comparison is run again.
"""

import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmtailor.base.base import Base
from lmtailor.compare.folder import About, Folder
from lmtailor.compare.leaderboard import Run
from lmtailor.compare.plan import Plan
from lmtailor.compare.progress import Reporter
from lmtailor.compare.report.sensitivity import sensitivity_lede, write_sensitivity_page
from lmtailor.compare.report.study import ShownStudy, shown_study
from lmtailor.compare.run import Bases, budgeted
from lmtailor.core.errors import InputError, LMTailorError, TrainingError, UnsupportedError
from lmtailor.core.files import write_text
from lmtailor.strategies.sensitivity import RECORD, sensitivity
from lmtailor.strategies.sensitivity_record import SensitivityRecord, read_sensitivity
from lmtailor.tasks.task import Task

PAGE = "report.html"
_REASON = "error.txt"


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """What came of the study on one base."""

    base: str
    """Its name in the plan."""
    folder: Path
    record: SensitivityRecord | None
    """None if it did not come to its end."""
    reason: str = ""
    """Why it did not."""

    @property
    def said(self) -> str:
        """What came out, in a sentence or two."""
        return f"It failed: {self.reason}" if self.record is None else sensitivity_lede(self.record)

    def shown(self, number: int, page: Path) -> ShownStudy:
        """As a part of a page. `number` is its place there, `page` the page's file."""
        if self.record is None:
            return ShownStudy(base=self.base, reason=self.reason)
        link = Path(os.path.relpath(self.folder / PAGE, page.parent)).as_posix()
        return shown_study(self.base, self.record, link, number)


def check_study(plan: Plan, task: Task) -> None:
    """See that there is something to ask, before anything runs.

    Raises:
        InputError: the task has no patterns, or none of a name that is asked for.
        UnsupportedError: the task has no labels to have words for.
    """
    if plan.sensitivity is None:
        return
    if task.kind != "classification":
        raise UnsupportedError(
            f"[sensitivity] asks a model for words that stand for labels; {task.name} is a {task.kind}. Leave it out."
        )
    for name in plan.sensitivity.prompts:
        task.prompt(name)
    if not task.prompts:
        raise InputError(f"[sensitivity] asks the patterns of the task, and {task.name} has none. Give its card [[patterns]].")


def run_studies(
    plan: Plan, bases: Bases, task: Task, folder: Folder, about: About, reporter: Reporter, *, before: Sequence[Run]
) -> list[Study]:
    """Carry out the plan's study, if it has one, on each of its bases.

    Args:
        plan: resolved.
        bases: how each base is loaded.
        task: with the metrics of the comparison, before its budget.
        folder: where everything is kept.
        about: what is compared.
        reporter: is told.
        before: the runs of the cells; the study has what they left of `budget.total_seconds`.
    """
    if plan.sensitivity is None:
        return []
    began, spent = time.monotonic(), sum(run.record.seconds for run in before)
    seen = budgeted(task, plan.budget, plan.sensitivity.settings.seeds[0])
    found = []
    for name in plan.sensitivity.bases:
        clock = _Clock(plan.budget.total_seconds, spent + time.monotonic() - began, reporter)
        found.append(_study(plan, name, bases[name], seen, folder.study(name), about.split, clock))
        reporter.note(f"sensitivity on {name}: {found[-1].said}")
    return found


def kept_studies(folder: Folder, about: About) -> list[Study]:
    """The studies of a comparison that ran before."""
    return [_kept(name, folder.study(name)) for name in about.studies]


class _Clock:
    """Passes on how far a study is, and stops it when the time of the plan is over."""

    def __init__(self, total: float | None, spent: float, reporter: Reporter) -> None:
        self._total, self._spent, self._reporter, self._began = total, spent, reporter, time.monotonic()

    def begin(self, name: str) -> None:
        """A study begins."""
        self._reporter.began(f"sensitivity on {name}")

    def tell(self, done: int, total: int) -> None:
        """See `strategies.sensitivity`.

        Raises:
            TrainingError: the time is over.
        """
        self._reporter.tick("document", done, total)
        taken = self._spent + time.monotonic() - self._began
        if self._total is not None and taken > self._total:
            raise TrainingError(
                f"The comparison took {taken:.0f} s, and budget.total_seconds is {self._total:g}. What was measured is kept: "
                "raise the budget and run the comparison again to go on."
            )


def _study(plan: Plan, name: str, load: Callable[[], Base], task: Task, folder: Path, split: str, clock: _Clock) -> Study:
    study = plan.sensitivity
    assert study is not None
    prompts, batch_size = study.prompts or None, plan.batch_size
    clock.begin(name)
    (folder / RECORD).unlink(missing_ok=True)  # until this one is done, there is none
    try:
        base = load()
        record = sensitivity(
            base,
            task,
            prompts=prompts,
            settings=study.settings,
            split=split,
            out=folder,
            batch_size=batch_size,
            tell=clock.tell,
        )
        write_sensitivity_page(record, folder / PAGE)
    except Exception as error:  # noqa: BLE001 - the study must not take the cells with it
        reason = str(error) if isinstance(error, LMTailorError) else f"{type(error).__name__}: {error}"
        write_text(folder / _REASON, f"{reason}\n\n{''.join(traceback.format_exception(error))}")
        return Study(base=name, folder=folder, record=None, reason=reason)
    (folder / _REASON).unlink(missing_ok=True)
    return Study(base=name, folder=folder, record=record)


def _kept(name: str, folder: Path) -> Study:
    blank = Study(base=name, folder=folder, record=None, reason="it was interrupted.")
    try:
        return replace(blank, record=read_sensitivity(folder / RECORD), reason="")
    except InputError:
        pass
    try:
        return replace(blank, reason=(folder / _REASON).read_text("utf-8").partition("\n\n")[0])
    except (OSError, UnicodeDecodeError):
        return blank
