"""Picture: for each template a box over its points: quartiles, median, and every point itself."""

from collections.abc import Sequence
from typing import Literal

from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lmtailor.compare.numbers import metric_name, score
from lmtailor.compare.report.canvas import Canvas, Picture, colour, make_picture
from lmtailor.compare.report.labels import fitted, text_width
from lmtailor.strategies.sensitivity_record import SensitivityRecord, Side, Summary

ALL = "all templates"
_ROOM = 0.36
"""The most of the picture's width that names may take; longer ones are cut."""
_HALF = 0.27
"""Half the height of a box (rows)."""
_HUES: dict[Side, Literal["hue-baseline", "accent"]] = {"before": "hue-baseline", "after": "accent"}
_TITLES: dict[Side, str] = {"before": "Before calibration", "after": "After calibration"}


def boxes_picture(record: SensitivityRecord, side: Side, order: Sequence[str], chance: float, *, within: str = "") -> Picture:
    """A row a template and one for all. The same rows and the same axis on both sides, so that they can be compared.

    Args:
        record: the study.
        side: before or after calibration.
        order: the templates' names from the top.
        chance: the score of always the same answer, which is drawn as a line.
        within: start of the picture's name, where a page has several studies.
    """
    name = metric_name(record.metric)
    rows = [record.summary(side, template) for template in order] + [record.summary(side)]
    return make_picture(
        f"{within}boxes-{side}",
        title=_TITLES[side] if len(record.sides) > 1 else "By template",
        alt=f"{name}{f' {side} calibration' if len(record.sides) > 1 else ''}: " + "; ".join(map(_said, rows)) + ".",
        caption=f"A dot is one set of demonstrations in one order. A box goes from the lower to the upper quartile of the dots' "
        f"{name}, its line is the median; the thin line goes from the worst to the best. Dashed: always the same answer.",
        draw=lambda width: _draw(record, side, rows, chance, width),
    )


def _said(row: Summary) -> str:
    return f"{row.template or ALL} median {score(row.median)}, from {score(row.worst)} to {score(row.best)}"


def _draw(record: SensitivityRecord, side: Side, rows: Sequence[Summary], chance: float, width: int) -> Canvas:
    size = 12 if width > 400 else 11
    measure = Canvas(width, 100, (0, 0, 0, 0))
    names = [fitted(measure, row.template or ALL, size=size, room=_ROOM * width) for row in rows]
    left = 10 + max(text_width(measure, name, size=size, bold=True) for name in names)
    canvas = Canvas(width, 62 + 34 * len(rows), (left, 14, 46, 8))
    axes = canvas.axes
    values = [value for one in record.sides for value in record.summary(one).values] + [chance]
    pad = max(0.04 * (max(values) - min(values)), 0.01)
    axes.set_xlim(min(values) - pad, max(values) + pad)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}".replace("-", "−")))
    axes.xaxis.grid(True)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), names, fontsize=size)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(colour("ink"))
        tick.set_fontweight("bold" if row.template is None else "normal")
    axes.axhline(len(rows) - 1.5, color=colour("faint"), linewidth=1)
    axes.axvline(chance, color=colour("hue-baseline"), linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_xlabel(metric_name(record.metric), labelpad=8)
    for height, row in enumerate(rows):
        _box(canvas, record, side, row, height)
    return canvas


def _box(canvas: Canvas, record: SensitivityRecord, side: Side, row: Summary, height: int) -> None:
    axes, ink = canvas.axes, colour(_HUES[side])
    axes.plot([row.worst, row.best], [height, height], color=ink, linewidth=1.2, zorder=2)
    box = Rectangle(
        (row.lower, height - _HALF), row.upper - row.lower, 2 * _HALF, facecolor=ink, alpha=0.22, linewidth=0, zorder=1
    )
    axes.add_patch(box)
    axes.plot(
        [row.median, row.median], [height - _HALF, height + _HALF], color=ink, linewidth=2.4, solid_capstyle="butt", zorder=3
    )
    told = f"{row.template or ALL}\nmedian {score(row.median)}, quartiles {score(row.lower)} and {score(row.upper)}"
    canvas.tip(box, f"{told}\nworst {score(row.worst)}, best {score(row.best)}")
    points = [point for point in record.points if row.template in (None, point.template)]
    for number, (point, value) in enumerate(zip(points, row.values, strict=True)):
        place = height + _HALF * 0.75 * (((number * 0.618034) % 1) * 2 - 1)  # spread evenly, the same each time
        small = row.template is None
        (mark,) = axes.plot(
            [value],
            [place],
            "o",
            markersize=3 if small else 5,
            color=ink,
            alpha=0.5 if small else 0.85,
            markeredgewidth=0,
            zorder=4,
        )
        where = f"seed {point.seed}, set {point.set + 1}" + (f", order {point.order + 1}" if point.order else "")
        canvas.tip(mark, f"{point.template}\n{where}: {score(value)}")
