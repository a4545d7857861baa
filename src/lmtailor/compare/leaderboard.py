"""The leaderboard: one row a cell, the best first, each with its interval, its costs and its test against the best.

Shapes: S seeds, N examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from lmtailor.compare.answers import AnyAnswers, difference, means
from lmtailor.compare.folder import About
from lmtailor.compare.numbers import listed
from lmtailor.compare.record import RunRecord, Touch
from lmtailor.core.errors import InputError, near
from lmtailor.tasks.metrics import PairedTest, Score
from lmtailor.tasks.metrics.direction import greater_is_better

LEVEL = 0.05
"""A difference with a smaller p-value is called significant.

There is no correction for the number of routes: it would make it harder to be called worse, and so would let more routes pass
that are."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A record with its answers."""

    record: RunRecord
    answers: Mapping[str, AnyAnswers] = field(default_factory=dict)
    """Split → answers; empty if it failed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell over its seeds."""

    cell: str
    base: str
    readout: str
    method: str
    seeds: tuple[int, ...]
    """Of the runs that are done."""
    failed: tuple[int, ...]
    """Seeds of the runs that failed."""
    score: Score
    """The ranking metric on the ranking split: mean over seeds, interval over examples and seeds."""
    by_seed: tuple[float, ...]
    """The same, seed by seed."""
    scores: Mapping[str, Mapping[str, Score]]
    """Split → metric → mean over seeds with its interval, the ranking one included."""
    to_best: PairedTest | None = None
    """This cell less the best one, on the same examples; None for the best itself, and where they have no examples in common."""
    to_reference: PairedTest | None = None
    """This cell less the plan's reference, where it names one."""
    to_baseline: PairedTest | None = None
    """This cell less the baseline; None for the baseline itself."""
    touches: tuple[Touch, ...]
    """Where the method acts."""
    baseline: bool
    """Whether it needs no model; see `baseline`."""
    trained_parameters: int
    base_parameters: int
    fit_seconds: float
    """Mean over seeds, as the other costs."""
    predict_seconds: float
    peak_memory: int
    """The largest over seeds (bytes)."""
    disk_bytes: int

    @property
    def untrained(self) -> bool:
        """Whether it is a model that answers as it is, by a prompt that nobody had to search for."""
        return not self.baseline and self.trained_parameters == 0 and self.fit_seconds == 0

    @property
    def share(self) -> float:
        """Trained parameters as a share of the base's; 0 where there is no base."""
        return self.trained_parameters / self.base_parameters if self.base_parameters else 0.0

    @property
    def tied(self) -> bool:
        """Whether its difference to the best may be chance. True for the best itself, and where nothing could be tested."""
        return self.to_best is None or self.to_best.p >= LEVEL

    def on(self, split: str) -> Score | None:
        """The ranking metric on another split, if it was scored."""
        return self.scores.get(split, {}).get(self.score.metric)


@dataclass(frozen=True, kw_only=True)
class OutOfDomain:
    """Who does best on an out-of-domain set."""

    split: str
    cell: str
    """The best score there, baselines aside."""
    winner: PairedTest | None
    """The in-domain winner less that cell, on this set; None if it is the same cell."""


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """All cells, the best first."""

    about: About
    rows: tuple[Row, ...]
    """Empty if every run failed. A route with several training sizes stands here at its largest."""
    unranked: tuple[Row, ...] = ()
    """The same routes at smaller training sizes, in the order of the plan. They are tested against nothing."""
    failures: tuple[RunRecord, ...]
    """Runs that failed, in the order of the plan."""
    ood: tuple[OutOfDomain, ...] = ()

    @property
    def metric(self) -> str:
        """The ranking metric."""
        return self.about.metrics[0]

    @property
    def sign(self) -> int:
        """1 if a larger value of the ranking metric is a better one, else −1."""
        return 1 if greater_is_better(self.metric) else -1

    @property
    def best(self) -> Row | None:
        """The row with the best score, the baseline aside."""
        return next((row for row in self.rows if not row.baseline), None)

    @property
    def baseline(self) -> Row | None:
        """The row that needs no model."""
        return next((row for row in self.rows if row.baseline), None)

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """The ranked rows, and behind them those at smaller training sizes."""
        return (*self.rows, *self.unranked)

    def failed_cells(self) -> list[tuple[str, str, str]]:
        """Cell, seeds and reason of what failed; runs that failed alike stand together."""
        grouped: dict[tuple[str, str], list[int]] = {}
        for record in self.failures:
            grouped.setdefault((record.cell, record.reason or "no reason was kept"), []).append(record.seed)
        return [
            (cell, f"seed{'s' if len(seeds) > 1 else ''} {listed([str(seed) for seed in sorted(seeds)])}", reason)
            for (cell, reason), seeds in grouped.items()
        ]

    def row(self, cell: str) -> Row:
        """The row of a cell.

        Raises:
            InputError: there is none.
        """
        for row in self.all_rows:
            if row.cell == cell:
                return row
        raise InputError(f"The leaderboard has no cell {cell!r}. {near(cell, [row.cell for row in self.all_rows])}")


def make_leaderboard(about: About, runs: Sequence[Run], *, resamples: int = 1000) -> Leaderboard:
    """Rank the cells.

    Args:
        about: what is compared.
        runs: of all cells and seeds that ended, in any order.
        resamples: of the bootstraps.
    """
    by_cell: dict[str, list[Run]] = {cell: [] for cell in about.cells}
    for run in runs:
        by_cell[run.record.cell].append(run)
    done = {cell: [run for run in own if run.record.status == "done"] for cell, own in by_cell.items()}
    every = [
        _row(about, own, [run.record.seed for run in by_cell[cell] if run.record.status == "failed"], resamples)
        for cell, own in done.items()
        if own
    ]
    rows = [row for row in every if row.cell not in about.smaller]
    sign = 1 if greater_is_better(about.metrics[0]) else -1
    rows.sort(key=lambda row: -sign * row.score.value)
    failures = [run.record for own in by_cell.values() for run in own if run.record.status == "failed"]
    tested = _tested(about, rows, done, resamples)
    ood = _out_of_domain(about, tested, done, sign, resamples)
    unranked = tuple(row for row in every if row.cell in about.smaller)
    return Leaderboard(about=about, rows=tuple(tested), unranked=unranked, failures=tuple(failures), ood=tuple(ood))


def _row(about: About, runs: list[Run], failed: list[int], resamples: int) -> Row:
    runs = sorted(runs, key=lambda run: run.record.seed)
    first = runs[0].record
    scores = {split: means(about.metrics, [run.answers[split] for run in runs], resamples=resamples) for split in runs[0].answers}
    metric, split = about.metrics[0], about.split
    records = [run.record for run in runs]
    return Row(
        cell=first.cell,
        base=first.base,
        readout=first.readout,
        method=first.method,
        seeds=tuple(record.seed for record in records),
        failed=tuple(sorted(failed)),
        score=scores[split][metric],
        by_seed=tuple(record.scores[split][metric].value for record in records),
        scores=scores,
        touches=first.touches,
        baseline=first.cell == about.baseline,
        trained_parameters=first.trained_parameters,
        base_parameters=first.base_parameters,
        fit_seconds=fmean(record.fit_seconds for record in records),
        predict_seconds=fmean(record.predict_seconds for record in records),
        peak_memory=max(record.peak_memory for record in records),
        disk_bytes=round(fmean(record.disk_bytes for record in records)),
    )


def _tested(about: About, rows: Sequence[Row], runs: Mapping[str, list[Run]], resamples: int) -> list[Row]:
    """The rows with their tests against the best, the plan's reference and the baseline."""
    best = next((row.cell for row in rows if not row.baseline), None)
    to_best, to_reference, to_baseline = (
        {row.cell: _test(about, about.split, runs[row.cell], runs[cell], resamples) for row in rows if row.cell != cell}
        if cell is not None and runs[cell]
        else {}
        for cell in (best, about.reference, about.baseline)
    )
    return [
        replace(
            row,
            to_best=to_best.get(row.cell),
            to_reference=to_reference.get(row.cell),
            to_baseline=to_baseline.get(row.cell),
        )
        for row in rows
    ]


def _out_of_domain(
    about: About, rows: Sequence[Row], runs: Mapping[str, list[Run]], sign: int, resamples: int
) -> list[OutOfDomain]:
    """For each out-of-domain set the best cell, and how the winner stands to it."""
    found = []
    real = [row for row in rows if not row.baseline]
    for split in about.ood:
        scored = [(row, score) for row in real if (score := row.on(split)) is not None]
        if not scored:
            continue
        first = max(scored, key=lambda pair: sign * pair[1].value)[0].cell
        winner = real[0].cell
        test = None if first == winner else _test(about, split, runs[winner], runs[first], resamples)
        found.append(OutOfDomain(split=split, cell=first, winner=test))
    return found


def _test(about: About, split: str, a: Sequence[Run], b: Sequence[Run], resamples: int) -> PairedTest | None:
    """The first cell less the second, on the same examples; None where they have none in common."""
    if about.drawn and split == about.split:
        common = {run.record.seed for run in a} & {run.record.seed for run in b}
        a, b = ([run for run in side if run.record.seed in common] for side in (a, b))
        if not common:
            return None
    sides = [[run.answers[split] for run in sorted(side, key=lambda run: run.record.seed)] for side in (a, b)]
    return difference(about.metrics[0], *sides, resamples=resamples)
