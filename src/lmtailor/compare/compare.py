"""`compare`: from a base, a task and a plan to a leaderboard, a recommendation and a report."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
from rich.console import Console

from lmtailor.base.base import Base
from lmtailor.base.load import load_base
from lmtailor.compare.answers import check_measurable
from lmtailor.compare.baseline import baseline_words
from lmtailor.compare.cell import Runner, run_cell
from lmtailor.compare.commands import Commands, commands
from lmtailor.compare.default_plan import default_plan, default_readout
from lmtailor.compare.designs import all_positions
from lmtailor.compare.folder import About, Folder
from lmtailor.compare.leaderboard import Leaderboard, Row, Run, make_leaderboard
from lmtailor.compare.numbers import listed
from lmtailor.compare.plan import BaseSource, Plan
from lmtailor.compare.plan_file import read_plan
from lmtailor.compare.progress import Reporter
from lmtailor.compare.recommend import Recommendation, recommend
from lmtailor.compare.report.page import make_page
from lmtailor.compare.run import budgeted, kept_run, lacking, run_plan
from lmtailor.compare.sizes import check_sizes
from lmtailor.compare.study import Study, check_study, kept_studies, run_studies
from lmtailor.compare.table import show
from lmtailor.core.errors import InputError
from lmtailor.core.files import alone, write_text
from lmtailor.infer.decoding import Decoding
from lmtailor.tasks.card import load_task
from lmtailor.tasks.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """All runs of a plan, and what they say."""

    folder: Path
    """Where everything is kept, as the caller wrote it."""
    about: About
    runs: tuple[Run, ...]
    studies: tuple[Study, ...] = ()
    """Of sensitivity, if the plan asks for it: one a base."""

    @cached_property
    def leaderboard(self) -> Leaderboard:
        """One row a cell, the best first; a route with several training sizes at its largest."""
        return make_leaderboard(self.about, self.runs)

    @cached_property
    def recommendation(self) -> Recommendation:
        """Which cell to take, and why."""
        return recommend(self.leaderboard)

    @property
    def winner(self) -> Row | None:
        """The row with the highest score, the baseline aside; None if every run failed."""
        return self.leaderboard.best

    def frame(self, *, runs: bool = False) -> pd.DataFrame:
        """The leaderboard as a table of numbers.

        Args:
            runs: one row a run, failed ones too, instead of one a cell.
        """
        return _run_frame(self.runs) if runs else _cell_frame(self.leaderboard, self.recommendation)

    def commands(self, cell: str | None = None) -> Commands | None:
        """What to type to predict with a cell's adapter; None if there is none.

        Args:
            cell: its name; None: the recommended one.
        """
        chosen = cell or self.recommendation.cell
        if chosen is None:
            return None
        return commands(self.leaderboard, self.runs, self.leaderboard.row(chosen).cell, self.folder)

    def to_html(self, path: str | Path | None = None) -> Path:
        """Write the report: one page that needs no network.

        Args:
            path: of the file; None: report.html in the comparison's folder.

        Raises:
            InputError: it cannot be written.
        """
        file = self.folder / "report.html" if path is None else Path(path)
        studies = [study.shown(number, file) for number, study in enumerate(self.studies, start=1)]
        page = make_page(self.leaderboard, self.runs, self.recommendation, folder=self.folder, studies=studies)
        write_text(file, page)
        return file

    def show(self, console: Console | None = None) -> None:
        """Print leaderboard and recommendation."""
        show(console or Console(), self.leaderboard, self.recommendation)


def compare(  # noqa: PLR0913 - every argument is a choice of its own
    base: Base | Mapping[str, Base] | None = None,
    task: Task | None = None,
    *,
    plan: Plan | str | Path | None = None,
    shots: int | None = None,
    decoding: Decoding | None = None,
    out: str | Path = "comparison",
    retry: bool = True,
    console: Console | None = None,
    runner: Runner = run_cell,
) -> Comparison:
    """Fit a task by several routes and compare them.

    What was done before in the same folder with the same settings is not done again: a comparison that was interrupted
    goes on, and one whose plan has changed runs what is new. A run that fails is kept with its reason and stops no other.

    Args:
        base: a base, or several by the names that the plan uses; None: those of the plan.
        task: the data; None: the plan's.
        plan: a plan or the file of one; None: every method there is, see `default_plan`.
        shots: examples of each label to train on, instead of the plan's `budget.shots`.
        decoding: how text is written, instead of the plan's.
        out: folder for adapters, records and report.
        retry: whether runs that failed before are tried again.
        console: where progress is shown; None: the terminal.
        runner: carries one run out.

    Raises:
        InputError: the plan does not fit base or task, the task has nothing to train or rank with, or `out` cannot be written.
    """
    read = read_plan(plan, task=task) if isinstance(plan, str | Path) else plan
    task = _task(read, task)
    given = {_base_name(base): base} if isinstance(base, Base) else dict(base or {})
    chosen = _plan(read, given, task, shots, decoding)
    sources = {name: source for name, source in chosen.bases.items() if name not in given}
    chosen = chosen.with_baseline(baseline_words(task.kind).name).with_readout(default_readout(task))
    chosen = chosen.resolved({**given, **sources})
    task = _measured(chosen, task)
    seen = budgeted(task, chosen.budget, chosen.cells[0].seeds[0])
    split = _ranking_split(seen)
    check_sizes(chosen.cells, seen, chosen.budget)
    check_study(chosen, seen)
    used = _used_bases(chosen, given)
    named = {name: one.source for name, one in given.items()} | {name: one.source for name, one in sources.items()}
    about = _about(chosen, seen, split, {name: source for name, source in named.items() if name in used})
    folder = Folder(Path(out))
    loaders = {name: _loader(given.get(name), sources.get(name)) for name in about.bases}
    total = sum(1 for _ in chosen.runs())
    reporter = Reporter(console or Console(), metric=task.metrics[0], split=split, total=total)
    with alone(folder.path), reporter:
        for text in about.notes:
            reporter.warn(text)
        runs = run_plan(chosen, loaders, task, folder, about=about, runner=runner, reporter=reporter, retry=retry)
        studies = run_studies(chosen, loaders, task, folder, about, reporter, before=runs)
    return Comparison(folder=folder.path, about=about, runs=tuple(runs), studies=tuple(studies))


def _plan(plan: Plan | None, given: Mapping[str, Base], task: Task, shots: int | None, decoding: Decoding | None) -> Plan:
    """The plan, or the default one, with what stands instead of its own.

    Raises:
        InputError: there is no plan, and not one base.
    """
    if plan is None:
        if len(given) != 1:
            raise InputError(f"Without a plan give one base to compare methods on; found {len(given)}.")
        [(name, only)] = given.items()
        plan = default_plan(only, task if shots is None else task.few_shot(shots), name=name)
    if shots is not None:
        plan = replace(plan, budget=replace(plan.budget, shots=shots))
    return plan if decoding is None else replace(plan, decoding=decoding)


def open_comparison(folder: str | Path) -> Comparison:
    """A comparison that ran before, from its folder; runs that were interrupted are not in it.

    Raises:
        InputError: there is none, or runs in it are of other data than it.
    """
    place = Folder(Path(folder))
    about = place.about()
    runs = []
    for one in place.runs(about):
        run = kept_run(one)
        if run is None:
            continue
        missing = lacking(run, about)
        if missing is not None:
            raise InputError(
                f"{one.path} has no {missing}, which the comparison needs: it was run before the task or its metrics changed. "
                "Run `lmtailor compare` again, or remove the folder of the run."
            )
        runs.append(run)
    return Comparison(folder=place.path, about=about, runs=tuple(runs), studies=tuple(kept_studies(place, about)))


def _task(plan: Plan | None, task: Task | None) -> Task:
    if task is not None:
        return task
    if plan is None or plan.task is None:
        raise InputError('There is no task to compare on. Give one, or name a card in the plan: task = "card.toml".')
    return load_task(plan.task)


def _measured(plan: Plan, task: Task) -> Task:
    """The task with the plan's metrics, if it names any.

    Raises:
        InputError: a decoding where nothing is written.
    """
    if plan.metrics:
        task = replace(task, metrics=plan.metrics)
    if plan.decoding is not None and task.kind != "generation":
        raise InputError(f"A decoding says how text is written, and the task {task.name} is of {task.kind}. Leave it out.")
    return task


def _used_bases(plan: Plan, given: Iterable[str]) -> set[str]:
    """The bases of the plan's cells.

    Raises:
        InputError: one of those that are given is not among them.
    """
    used = {cell.base for cell in plan.cells if cell.base is not None}
    used |= set(() if plan.sensitivity is None else plan.sensitivity.bases)
    idle = next((name for name in given if name not in used), None)
    if idle is not None:
        raise InputError(
            f"The base {idle!r} is given, but no cell of the plan is on it; they are on {listed(sorted(used)) or 'none'}."
        )
    return used


def _base_name(base: Base) -> str:
    """A short name of a base that was given as an object."""
    return Path(base.source).name or base.family.name


def _loader(given: Base | None, source: BaseSource | None) -> Callable[[], Base]:
    def load() -> Base:
        if given is not None:
            return given
        assert source is not None
        return load_base(source.source, dtype=source.dtype, device=source.device, revision=source.revision)

    return load


def _ranking_split(task: Task) -> str:
    """test, or dev where there is no test split.

    Raises:
        InputError: there is nothing to learn from or nothing to rank by, or a metric that answers do not give.
    """
    if "train" not in task.splits:
        raise InputError(f"The task {task.name} has no train split, so there is nothing to compare methods on.")
    for name in ("test", "dev"):
        if name in task.splits and task.splits[name].labelled:
            check_measurable(task)
            return name
    raise InputError(f"The task {task.name} has neither a labelled test split nor a dev split to rank by. Name a file for one.")


def _about(plan: Plan, task: Task, split: str, bases: Mapping[str, str]) -> About:
    baseline = next((cell.name for cell in plan.cells if cell.is_baseline), None)
    return About(
        task=task.name,
        kind=task.kind,
        text=task.text,
        labels=task.labels,
        metrics=task.metrics,
        split=split,
        ood=task.ood,
        sizes={name: len(part) for name, part in task.splits.items()},
        notes=task.notes,
        bases=bases,
        cells=tuple(cell.name for cell in plan.cells),
        baseline=baseline,
        reference=plan.reference_cell,
        positions=all_positions(plan.cells),
        drawn=split == "dev" and plan.budget.shots is not None,
        studies=() if plan.sensitivity is None else plan.sensitivity.bases,
    )


def _cell_frame(board: Leaderboard, recommendation: Recommendation) -> pd.DataFrame:
    rows = []
    for row in (*board.rows, *board.unranked):
        ranked = row not in board.unranked
        values: dict[str, object] = {
            "cell": row.cell,
            "ranked": ranked,
            "examples": board.about.examples(row.cell),
            "base": row.base,
            "readout": row.readout,
            "method": row.method,
            "seeds": len(row.seeds),
            "failed": len(row.failed),
            "recommended": row.cell == recommendation.cell,
            "tied_with_best": row.tied if ranked else None,
            "p": None if row.to_best is None else row.to_best.p,
        }
        for split, scores in row.scores.items():
            for metric, score in scores.items():
                values |= {
                    f"{split}_{metric}": score.value,
                    f"{split}_{metric}_low": score.low,
                    f"{split}_{metric}_high": score.high,
                }
        for name in ("trained_parameters", "share", "fit_seconds", "predict_seconds", "peak_memory", "disk_bytes"):
            values[name] = getattr(row, name)
        rows.append(values)
    return pd.DataFrame(rows)


def _run_frame(runs: tuple[Run, ...]) -> pd.DataFrame:
    rows = []
    plain = ("cell", "base", "readout", "method", "seed", "status", "reason", "trained_parameters", "base_parameters")
    costs = ("fit_seconds", "predict_seconds", "peak_memory", "disk_bytes", "adapter")
    for run in runs:
        record = run.record
        values: dict[str, object] = {name: getattr(record, name) for name in plain}
        for split, scores in record.scores.items():
            values |= {f"{split}_{metric}": score.value for metric, score in scores.items()}
        rows.append(values | {name: getattr(record, name) for name in costs})
    return pd.DataFrame(rows)
