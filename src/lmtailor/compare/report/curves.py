"""Picture: the dev score while training, against time."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from lmtailor.compare.leaderboard import Leaderboard, Row, Run
from lmtailor.compare.numbers import duration, metric_name, score
from lmtailor.compare.recommend import Recommendation
from lmtailor.compare.report.axes import score_axis
from lmtailor.compare.report.canvas import Canvas, Picture, colour, make_picture
from lmtailor.compare.report.colours import DASHES, hue
from lmtailor.compare.report.labels import End, name_ends, names_margin
from lmtailor.tasks.metrics.direction import greater_is_better

_LESS = "The lower, the better. "
_LOG = 30
"""Times that differ by more than this factor are drawn on a log axis."""


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """The evaluations of one cell."""

    row: Row
    seeds: tuple[tuple[tuple[float, float], ...], ...]
    """For each seed (seconds, score)."""
    mean: tuple[tuple[float, float], ...]
    """Over the seeds, evaluation by evaluation."""


def curves_picture(board: Leaderboard, runs: Sequence[Run], recommendation: Recommendation) -> Picture | None:
    """One line a cell; None if nothing was evaluated while training."""
    curves = _curves(board, runs)
    if not curves:
        return None
    name = metric_name(board.about.choosing)
    alt = f"{name} on dev while training: " + "; ".join(
        f"{curve.row.cell} from {score(curve.mean[0][1])} to {score(curve.mean[-1][1])} in {duration(curve.mean[-1][0])}"
        for curve in curves
    )
    seeds = "Bold lines are means over seeds, thin lines the seeds. " if any(len(curve.seeds) > 1 for curve in curves) else ""
    return make_picture(
        "curves",
        title="How fast do they learn?",
        alt=alt + ".",
        caption=f"{name[:1].upper()}{name[1:]} on dev against seconds since the start of training, evaluations included. "
        f"{_LESS if not greater_is_better(board.about.choosing) else ''}{seeds}",
        draw=lambda width: _draw(board, curves, recommendation, width),
    )


def _curves(board: Leaderboard, runs: Sequence[Run]) -> list[_Curve]:
    curves = []
    for row in board.rows:
        seeds = [
            tuple((point.seconds, point.score) for point in run.record.history if point.score is not None and point.seconds > 0)
            for run in runs
            if run.record.cell == row.cell and run.record.status == "done"
        ]
        seeds = [seed for seed in seeds if seed]
        if seeds:
            length = min(map(len, seeds))
            mean = tuple((fmean(s[i][0] for s in seeds), fmean(s[i][1] for s in seeds)) for i in range(length))
            curves.append(_Curve(row=row, seeds=tuple(seeds), mean=mean))
    return curves


def _draw(board: Leaderboard, curves: Sequence[_Curve], recommendation: Recommendation, width: int) -> Canvas:
    wide = width > 400
    size = 12 if wide else 11
    right = names_margin(width, [curve.row.cell for curve in curves], size=size)
    canvas = Canvas(width, round(width * 0.7) if wide else 320, (34, right, 46, 16))
    axes = canvas.axes
    times = [time for curve in curves for seed in curve.seeds for time, _ in seed]
    score_axis(canvas, [value for curve in curves for seed in curve.seeds for _, value in seed], board, axis="y", baseline=False)
    _time_axis(canvas, min(times), max(times))
    axes.set_xlabel("seconds of training", labelpad=8)
    drawn: dict[str, int] = {}
    for curve in curves:
        key = hue(curve.row).key
        ink, dashes = colour(f"hue-{key}"), DASHES[drawn.setdefault(key, 0) % len(DASHES)]
        drawn[key] += 1
        chosen = curve.row.cell == recommendation.cell
        if len(curve.seeds) > 1:
            for seed in curve.seeds:
                axes.plot(*zip(*seed, strict=True), color=ink, linewidth=0.8, alpha=0.28)
        (line,) = axes.plot(
            *zip(*curve.mean, strict=True),
            color=ink,
            linewidth=2.6 if chosen else 1.8,
            linestyle=dashes,
            marker="o",
            markersize=4.5 if chosen else 3.5,
            markeredgewidth=0,
            clip_on=False,
            zorder=3,
        )
        canvas.tip(line, f"{curve.row.cell}\n{score(curve.mean[-1][1])} on dev after {duration(curve.mean[-1][0])}")
    ends = [
        End(text=curve.row.cell, x=x, y=y, ink=colour(f"hue-{hue(curve.row).key}"), bold=curve.row.cell == recommendation.cell)
        for curve in curves
        for x, y in curve.mean[-1:]
    ]
    name_ends(canvas, ends, size=size)
    return canvas


def _time_axis(canvas: Canvas, first: float, last: float) -> None:
    axes = canvas.axes
    if last / first > _LOG:
        axes.set_xscale("log")
        axes.set_xlim(first / 1.3, last * 1.05)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if last / first < 300 else (1,), numticks=12))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, last * 1.02)
        axes.xaxis.set_major_locator(FixedLocator(_round_ticks(last)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _round_ticks(last: float) -> list[float]:
    """About five round numbers from 0."""
    step = next(size * 10**power for power in range(-3, 9) for size in (1, 2, 5) if last / (size * 10**power) <= 5)
    return [step * number for number in range(int(last / step) + 1)]
