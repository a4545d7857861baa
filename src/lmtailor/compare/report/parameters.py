"""Picture: the score against the number of trained parameters."""

import math

import numpy as np
from matplotlib.transforms import Bbox

from lmtailor.compare.leaderboard import Leaderboard, Row
from lmtailor.compare.numbers import count, duration, interval, metric_name, score
from lmtailor.compare.recommend import Recommendation
from lmtailor.compare.report.axes import score_axis
from lmtailor.compare.report.canvas import Canvas, Picture, colour, make_picture
from lmtailor.compare.report.colours import hue, shapes_of
from lmtailor.compare.report.labels import Label, place_labels


def parameters_picture(board: Leaderboard, recommendation: Recommendation) -> Picture:
    """The cells as points with intervals; those that train nothing stand apart at zero."""
    name = metric_name(board.metric)
    rows = [row for row in board.rows if not row.baseline]
    alt = f"{name} against trained parameters: " + "; ".join(
        f"{row.cell} {score(row.score.value)} with {count(row.trained_parameters)}" for row in rows
    )
    return make_picture(
        "parameters",
        title="What does a parameter buy?",
        alt=alt + ".",
        caption=f"{name[:1].upper()}{name[1:]} on {board.about.split} against the number of trained parameters. "
        "Lines are 95 % intervals. Filled: not significantly worse than the best.",
        draw=lambda width: _draw(board, recommendation, width),
    )


def _draw(board: Leaderboard, recommendation: Recommendation, width: int) -> Canvas:
    canvas = Canvas(width, round(width * 0.7) if width > 400 else 320, (34, 14, 46, 16))
    axes = canvas.axes
    rows = [row for row in board.rows if not row.baseline]
    scale = _Scale(rows)
    obstacles = score_axis(canvas, [edge for row in rows for edge in (row.score.low, row.score.high)], board, axis="y")
    axes.set_xlim(scale.low, scale.high)
    axes.set_xticks(scale.ticks, scale.labels)
    axes.set_xlabel("trained parameters", labelpad=8)
    if scale.zeros and scale.some:
        axes.axvline(scale.gap, color=colour("faint"), linewidth=1, linestyle=(0, (2, 3)))
    shapes, labels = shapes_of(board), []
    for row in sorted(rows, key=lambda row: row.cell != recommendation.cell):
        x, y = scale.x(row), row.score.value
        ink = colour(f"hue-{hue(row).key}")
        axes.plot([x, x], [row.score.low, row.score.high], color=ink, linewidth=1.6, alpha=0.55, solid_capstyle="round")
        if row.cell == recommendation.cell:
            axes.plot([x], [y], "o", markersize=17, markerfacecolor="none", markeredgecolor=colour("accent"), markeredgewidth=1.5)
        (point,) = axes.plot(
            [x],
            [y],
            shapes.get(row.base, "o"),
            markersize=8.5,
            markerfacecolor=ink if row.tied else colour("paper"),
            markeredgecolor=ink,
            markeredgewidth=1.8,
            clip_on=False,
            zorder=3,
        )
        canvas.tip(point, _tip(row))
        labels.append(Label(text=row.cell, x=x, y=y, bold=row.cell == recommendation.cell))
        (left, bottom), (right, top) = axes.transData.transform([(x, row.score.low), (x, row.score.high)])
        (middle_x, middle_y) = axes.transData.transform((x, y))
        obstacles += [Bbox([[left - 1.5, bottom], [right + 1.5, top]]), Bbox.from_bounds(middle_x - 7, middle_y - 7, 14, 14)]
    place_labels(canvas, labels, obstacles, size=11 if canvas.narrow else 12)
    return canvas


class _Scale:
    """A log axis with a place of its own for zero."""

    def __init__(self, rows: list[Row]) -> None:
        trained = [row.trained_parameters for row in rows if row.trained_parameters]
        zeros = [row for row in rows if not row.trained_parameters]
        self.zeros, self.some = bool(zeros), bool(trained)
        first = math.floor(math.log10(min(trained))) if trained else 0
        last = math.ceil(math.log10(max(trained))) if trained else 0
        self.zero = first - 0.75
        self.gap = first - 0.32
        self.low = (self.zero - 0.45) if zeros else first - 0.15
        self.high = max(math.log10(max(trained)) + 0.35, first + 1.1) if trained else self.zero + 0.45
        # Points at zero would hide each other where scores are close, so they stand side by side.
        offsets = np.linspace(-0.18, 0.18, len(zeros)) if len(zeros) > 1 else [0.0]
        self._offset = {row.cell: float(offset) for row, offset in zip(zeros, offsets, strict=False)}
        powers = [power for power in range(first, max(last, first + 1) + 1) if power <= self.high] if trained else []
        self.ticks = ([self.zero] if zeros else []) + [float(power) for power in powers]
        self.labels = (["0"] if zeros else []) + [_power(power) for power in powers]

    def x(self, row: Row) -> float:
        """Where a row stands."""
        return math.log10(row.trained_parameters) if row.trained_parameters else self.zero + self._offset[row.cell]


def _power(power: int) -> str:
    """10^power in words of the other tables: 1 k, 10 k, 1 M."""
    prefix = ("", "k", "M", "G", "T")[min(power // 3, 4)]
    return f"{10 ** (power - 3 * min(power // 3, 4))}\u202f{prefix}".strip()


def _tip(row: Row) -> str:
    fit = f" · fit {duration(row.fit_seconds)}" if row.fit_seconds else ""
    return (
        f"{row.cell}\n{metric_name(row.score.metric)} {score(row.score.value)} {interval(row.score.low, row.score.high)}\n"
        f"{count(row.trained_parameters)} parameters trained{fit}"
    )
