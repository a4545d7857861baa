"""Lines through cells that differ in one thing: what the pictures over sizes, settings and bases share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lmtailor.compare.leaderboard import Leaderboard, Row
from lmtailor.compare.numbers import interval, listed, metric_name, score
from lmtailor.compare.positions import Position
from lmtailor.compare.report.axes import score_axis
from lmtailor.compare.report.canvas import Canvas, colour
from lmtailor.compare.report.colours import DASHES, Dashes, hue
from lmtailor.compare.report.labels import End, name_ends, names_margin
from lmtailor.compare.report.scale import Scale, draw_scale

Spread = Literal["seeds", "interval"]
"""What is drawn around the means: a band from the lowest seed to the highest, or a line over the 95 % interval."""

_DODGE = 0.014
"""Lines with intervals stand beside each other by this part of the axis, so that no interval hides another."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Cells on one curve."""

    name: str
    points: tuple[tuple[Position, Row], ...]
    """In the order of the plan; numbers ascending."""

    @property
    def last(self) -> Row:
        """The cell at its right end."""
        return self.points[-1][1]


def lines_on(board: Leaderboard, axis: str, rows: Sequence[Row]) -> list[Line]:
    """The curves over an axis that have at least two points, in the order of the plan.

    Args:
        board: where cells stand.
        axis: see `Position.axis`.
        rows: the cells that may be on them.
    """
    known = {row.cell: row for row in rows}
    found: dict[str, list[tuple[Position, Row]]] = {}
    for cell in board.about.cells:
        for one in board.about.positions.get(cell, ()):
            if one.axis == axis and cell in known:
                found.setdefault(one.line, []).append((one, known[cell]))
    return [
        Line(name=name, points=tuple(sorted(points, key=lambda point: point[0].number or 0.0)))
        for name, points in found.items()
        if len(points) > 1
    ]


def said(lines: Sequence[Line], unit: str = "") -> str:
    """The numbers of lines in words."""
    return "; ".join(
        f"{line.name}: {listed([f'{score(row.score.value)} at {one.text}{unit}' for one, row in line.points])}" for line in lines
    )


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over one axis, with their names at the right; a name is left out where there is one line only."""

    board: Leaderboard
    """For the baseline."""
    lines: Sequence[Line]
    scale: Scale
    """Places for the positions' texts."""
    label: str
    """Of the horizontal axis."""
    spread: Spread
    chosen: str | None
    """The recommended cell; its line is bold."""
    flat: Sequence[Row] = ()
    """Cells to which the axis makes no difference."""
    shapes: Mapping[str, str] = field(default_factory=dict)
    """Base → marker; empty: circles."""
    baseline: bool = False
    """Whether the line of the baseline is drawn."""

    def draw(self, width: int) -> Canvas:
        """The drawing of a width (pixels)."""
        wide, named = width > 400, len(self.lines) + len(self.flat) > 1
        size = 12 if wide else 11
        names = [*short_names([line.name for line in self.lines]), *(row.cell for row in self.flat)]
        right = names_margin(width, names, size=size) if named else 16
        canvas = Canvas(width, round(width * 0.7) if wide else 320, (34, right, 46, 16))
        rows = [row for line in self.lines for _, row in line.points] + list(self.flat)
        score_axis(
            canvas, [edge for row in rows for edge in edges(row, self.spread)], self.board, axis="y", baseline=self.baseline
        )
        draw_scale(canvas, self.scale, self.label, size=size)
        drawn: dict[str, int] = {}
        ends = []
        for number, (line, name) in enumerate(zip(self.lines, names, strict=False)):
            key = hue(line.last).key
            dashes = DASHES[drawn.setdefault(key, 0) % len(DASHES)]
            drawn[key] += 1
            x, y = self._line(canvas, line, self._shift(number), colour(f"hue-{key}"), dashes)
            ends.append(End(text=name, x=x, y=y, ink=colour(f"hue-{key}"), bold=self._holds_chosen(line)))
        ends += [self._flat(canvas, row) for row in self.flat]
        if named:
            name_ends(canvas, ends, size=size)
        return canvas

    def _shift(self, number: int) -> float:
        """How far a line stands beside its places, so that no interval hides another."""
        unit = _DODGE * self.scale.span if self.scale.numbers else _DODGE * len(self.scale.places)
        return (number - (len(self.lines) - 1) / 2) * unit if self.spread == "interval" else 0.0

    def _line(self, canvas: Canvas, line: Line, shift: float, ink: str, dashes: Dashes) -> tuple[float, float]:
        """Draw a line, and say where it ends."""
        axes, bold = canvas.axes, self._holds_chosen(line)
        places = [self.scale.places[one.text] + shift for one, _ in line.points]
        values = [row.score.value for _, row in line.points]
        axes.plot(
            places,
            values,
            color=ink,
            linewidth=2.6 if bold else 1.8,
            linestyle=dashes,
            alpha=1 if self.scale.numbers else 0.35,
            zorder=3,
        )
        if self.spread == "seeds" and any(len(row.by_seed) > 1 for _, row in line.points):
            low, high = zip(*(edges(row, self.spread) for _, row in line.points), strict=True)
            axes.fill_between(places, low, high, color=ink, alpha=0.14, linewidth=0, zorder=1)
        for place, (_, row) in zip(places, line.points, strict=True):
            if self.spread == "interval":
                axes.plot(
                    [place, place],
                    edges(row, self.spread),
                    color=ink,
                    linewidth=1.6,
                    alpha=0.55,
                    solid_capstyle="round",
                    zorder=2,
                )
            (mark,) = axes.plot(
                [place],
                [row.score.value],
                self.shapes.get(row.base, "o"),
                markersize=7 if bold else 6,
                color=ink,
                markeredgewidth=0,
                clip_on=False,
                zorder=4,
            )
            canvas.tip(mark, tip(row))
        return places[-1], values[-1]

    def _holds_chosen(self, line: Line) -> bool:
        return any(row.cell == self.chosen for _, row in line.points)

    def _flat(self, canvas: Canvas, row: Row) -> End:
        """A line at one height."""
        ink = colour(f"hue-{hue(row).key}")
        low, high = canvas.axes.get_xlim()
        (line,) = canvas.axes.plot([low, high], [row.score.value] * 2, color=ink, linewidth=1.4, linestyle=DASHES[2], zorder=2)
        canvas.tip(line, tip(row))
        return End(text=row.cell, x=high - 0.02 * self.scale.span, y=row.score.value, ink=ink, bold=row.cell == self.chosen)


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the parts that all of them have, where something is left of each."""
    parts = [name.split(" · ") for name in names]
    shared = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
    short = [" · ".join(part for part in own if part not in shared) for own in parts]
    return short if all(short) else list(names)


def shared_parts(names: Sequence[str]) -> str:
    """What `short_names` leaves out; the whole name, if there is one only."""
    if len(names) == 1:
        return names[0]
    short = short_names(names)
    return "" if short == list(names) else " · ".join(part for part in names[0].split(" · ") if part not in short[0].split(" · "))


def edges(row: Row, spread: Spread) -> tuple[float, float]:
    """What is drawn around a cell's mean."""
    return (min(row.by_seed), max(row.by_seed)) if spread == "seeds" else (row.score.low, row.score.high)


def tip(row: Row) -> str:
    """A cell's numbers where the pointer is on it."""
    seeds = (
        f"\n{len(row.by_seed)} seeds from {score(min(row.by_seed))} to {score(max(row.by_seed))}" if len(row.by_seed) > 1 else ""
    )
    return (
        f"{row.cell}\n{metric_name(row.score.metric)} {score(row.score.value)} {interval(row.score.low, row.score.high)}{seeds}"
    )
