"""Picture: tables of numbers as coloured cells, one block below the other, each with columns of its own.

Blocks of different numbers of columns are drawn equally wide, so that beginnings, middles and ends stand below each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.patches import Rectangle

from lmtailor.compare.report.canvas import Canvas, Picture, colour, make_picture
from lmtailor.compare.report.labels import fitted, text_width

_ROW, _GAP, _TITLE, _TICKS = 22, 2, 26, 20
"""Heights of a row, of what is between rows, of a block's title and of its column names (pixels)."""
_BETWEEN, _APART = 16, 14
"""Between blocks, and before a column that stands apart (pixels)."""
_ROOM = 0.3
"""The most of the picture's width that names may take; longer ones are cut."""
_FAINT, _FULL = 0.06, 0.72
"""Opacity of the lowest and of the highest value."""
_WRITTEN = 30
"""The narrowest cell in which its value is written (pixels)."""


@dataclass(frozen=True, kw_only=True)
class HeatRow:
    """A row of cells."""

    name: str
    values: tuple[float | None, ...]
    """One a column; None: there is nothing."""
    tips: tuple[str, ...]
    """What each cell says when it is pointed at."""
    ink: str
    """The colour: a name as `canvas.colour` takes it."""
    low: float
    """The value that is drawn faintest; lower ones look like it."""
    high: float
    """The value that is drawn fullest."""
    best: int | None = None
    """The column whose cell has a frame."""


@dataclass(frozen=True, kw_only=True)
class HeatBlock:
    """Rows with the same columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    apart: int = 0
    """How many of the last columns stand apart from the others."""


def heat_picture(name: str, *, title: str, alt: str, caption: str, blocks: Sequence[HeatBlock]) -> Picture:
    """Draw blocks for wide and for narrow screens.

    Args:
        name: unique in the page.
        title: of the figure.
        alt: what it shows, in words.
        caption: how to read it.
        blocks: from the top.
    """
    return make_picture(name, title=title, alt=alt, caption=caption, draw=lambda width: _draw(blocks, width))


def _draw(blocks: Sequence[HeatBlock], width: int) -> Canvas:
    size = 12 if width > 400 else 10.5
    measure = Canvas(width, 100, (0, 0, 0, 0))
    names = {row.name for block in blocks for row in block.rows}
    left = 8 + max(
        text_width(measure, fitted(measure, name, size=size, room=_ROOM * width), size=size, bold=True) for name in names
    )
    height = sum(_height(block) for block in blocks) + _BETWEEN * (len(blocks) - 1)
    canvas = Canvas(width, height, (0, 0, 0, 0))
    canvas.axes.set_xlim(0, width)
    canvas.axes.set_ylim(height, 0)
    canvas.axes.set_axis_off()
    top = 0.0
    for block in blocks:
        _block(canvas, block, left, top, size)
        top += _height(block) + _BETWEEN
    return canvas


def _height(block: HeatBlock) -> int:
    return (_TITLE if block.title else 0) + len(block.rows) * (_ROW + _GAP) + _TICKS


def _block(canvas: Canvas, block: HeatBlock, left: float, top: float, size: float) -> None:
    axes = canvas.axes
    if block.title:
        text = fitted(canvas, block.title, size=size + 1, room=canvas.width)
        axes.text(0, top + _TITLE / 2 - 2, text, fontsize=size + 1, fontweight="bold", va="center")
        top += _TITLE
    wide = (canvas.width - left - (_APART if block.apart else 0)) / len(block.columns)
    starts = [
        left + wide * number + (_APART if number >= len(block.columns) - block.apart else 0)
        for number in range(len(block.columns))
    ]
    for row in block.rows:
        middle = top + _ROW / 2
        name = fitted(canvas, row.name, size=size, room=left - 8)
        axes.text(left - 8, middle, name, fontsize=size, ha="right", va="center", color=colour("muted"))
        for number, value in enumerate(row.values):
            if value is not None:
                _cell(canvas, row, number, (starts[number], top, wide))
        top += _ROW + _GAP
    _ticks(canvas, block, starts, wide, top, size - 1)


def _cell(canvas: Canvas, row: HeatRow, number: int, place: tuple[float, float, float]) -> None:
    (x, y, wide), value = place, row.values[number]
    assert value is not None
    share = min(max((value - row.low) / (row.high - row.low), 0.0), 1.0) if row.high > row.low else 1.0
    between = 1.0 if wide < 14 else 2.0
    box = (x, y), wide - between, _ROW
    cell = Rectangle(*box, facecolor=colour(row.ink), alpha=_FAINT + (_FULL - _FAINT) * share, linewidth=0)
    canvas.axes.add_patch(cell)
    canvas.tip(cell, row.tips[number])
    if number == row.best:
        frame = Rectangle(*box, fill=False, edgecolor=colour("ink"), linewidth=1.6, zorder=3)
        canvas.axes.add_patch(frame)
        canvas.tip(frame, row.tips[number])
    if wide >= _WRITTEN:
        written = canvas.axes.text(
            x + (wide - between) / 2, y + _ROW / 2, f"{value:.2f}".replace("-", "−"), fontsize=10, ha="center", va="center"
        )
        canvas.tip(written, row.tips[number])


def _ticks(canvas: Canvas, block: HeatBlock, starts: Sequence[float], wide: float, top: float, size: float) -> None:
    """Names of columns, of which as many are left out as need be; those that stand apart are always there."""
    main = len(block.columns) - block.apart
    widest = max((text_width(canvas, name, size=size) for name in block.columns[:main]), default=0.0) + 5
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 10**6) if step * wide >= widest)
    apart = [*range(main, len(block.columns))]
    for number in [*range(0, main, every), *apart]:
        side, x = ("right", starts[number] + wide) if number in apart and wide < widest else ("center", starts[number] + wide / 2)
        name = block.columns[number]
        canvas.axes.text(x, top + _TICKS / 2 - 2, name, fontsize=size, ha=side, va="center", color=colour("muted"))
