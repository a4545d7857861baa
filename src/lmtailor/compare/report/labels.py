"""Names beside points, placed so that they do not cover points, intervals or each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.transforms import Bbox

from lmtailor.compare.report.canvas import Canvas, clean, colour

_NEAR, _STEP, _RINGS = 12.0, 10.0, 4
"""Distance of a label from its point, and how much further the next tries are (pixels)."""
_HIDDEN = 0.12
"""A label of which more than this part would lie on points or other labels is left out; its point's tip has the name."""
_BEFORE_NAME = 14
"""Between the axes and the names of lines (pixels)."""
_MARGIN = 0.36
"""The most of the width that names of lines may take; longer ones are cut."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """A name to put beside a point."""

    text: str
    x: float
    """In data coordinates."""
    y: float
    bold: bool = False


@dataclass(frozen=True, kw_only=True)
class End:
    """Where a line ends, and its name."""

    text: str
    x: float
    """In data coordinates."""
    y: float
    ink: str
    """Of the line."""
    bold: bool = False


def names_margin(width: int, names: Sequence[str], *, size: float) -> float:
    """How wide a right margin must be for the names of lines (pixels); at most a third of the drawing.

    Args:
        width: of the drawing.
        names: of the lines.
        size: of the letters (pixels).
    """
    measure = Canvas(width, 100, (0, 0, 0, 0))
    widest = max(text_width(measure, clean(name), size=size, bold=True) for name in names)
    return min(widest + _BEFORE_NAME + 4, _MARGIN * width)


def name_ends(canvas: Canvas, ends: Sequence[End], *, size: float) -> None:
    """Draw the names of lines in the right margin, each tied to its line's end.

    Args:
        canvas: whose axes have their final limits.
        ends: of the lines.
        size: of the letters (pixels).
    """
    axes = canvas.axes
    box = axes.get_window_extent()
    points = [axes.transData.transform((end.x, end.y)) for end in ends]
    heights = spread([point[1] for point in points], size * 1.25, box.y0, box.y1)
    to_data = axes.transData.inverted()
    right = box.x1 + _BEFORE_NAME
    for end, point, height in zip(ends, points, heights, strict=True):
        path = to_data.transform([(point[0] + 6, point[1]), (right - 4, height)])
        axes.plot(path[:, 0], path[:, 1], color=end.ink, linewidth=0.8, alpha=0.6, clip_on=False, zorder=2)
        axes.annotate(
            fitted(canvas, end.text, size=size, room=canvas.width - right),
            (right, height),
            xycoords="figure pixels",
            fontsize=size,
            va="center",
            color=colour("ink"),
            fontweight="bold" if end.bold else "normal",
            annotation_clip=False,
        )


def place_labels(canvas: Canvas, labels: Sequence[Label], obstacles: Sequence[Bbox], *, size: float) -> None:
    """Draw each label at the free place nearest to its point, with a thin line where it is not close by.

    Where points are so many that a label would cover others, it is left out unless it is bold.

    Args:
        canvas: whose axes have their final limits.
        labels: the most important first; it gets the best place.
        obstacles: boxes that are not to be covered (display pixels).
        size: of the letters (pixels).
    """
    axes = canvas.axes
    bounds = Bbox.from_bounds(2, 2, canvas.width - 4, canvas.height - 4)
    taken = list(obstacles)
    for label in labels:
        x, y = axes.transData.transform((label.x, label.y))
        text = axes.annotate(
            clean(label.text),
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset pixels",
            fontsize=size,
            fontweight="bold" if label.bold else "normal",
            color=colour("ink"),
            va="center",
            ha="left",
            annotation_clip=False,
        )
        box = text.get_window_extent()
        width, height = box.width, size * 1.1
        dx, dy = min(
            _places(width),
            key=lambda place: _cost(
                place, Bbox.from_bounds(x + place[0] - 3, y + place[1] - height / 2, width + 6, height), taken, bounds
            ),
        )
        text.set_position((dx, dy))
        spot = Bbox.from_bounds(x + dx, y + dy - height / 2, width, height)
        if not label.bold and sum(_overlap(spot, other) for other in taken) > _HIDDEN * width * height:
            text.remove()
            continue
        taken.append(spot)
        if _distance(dx, dy, width) > _NEAR + _STEP:
            near_x = min(max(x, spot.x0), spot.x1)
            near_y = spot.y0 if spot.y0 > y else spot.y1 if spot.y1 < y else y
            ends = axes.transData.inverted().transform([(x, y), (near_x, near_y)])
            axes.plot(ends[:, 0], ends[:, 1], color=colour("muted"), linewidth=0.8, clip_on=False, zorder=1)


def text_width(canvas: Canvas, text: str, *, size: float, bold: bool = False) -> float:
    """How wide a text will be (pixels)."""
    artist = canvas.figure.text(0, 0, text, fontsize=size, fontweight="bold" if bold else "normal")
    width = float(artist.get_window_extent().width)
    artist.remove()
    return width


def fitted(canvas: Canvas, text: str, *, size: float, room: float) -> str:
    """The text, or as much of its beginning as there is room for (pixels), with an ellipsis."""
    text = clean(text)
    if text_width(canvas, text, size=size, bold=True) <= room:
        return text
    while text and text_width(canvas, f"{text}…", size=size, bold=True) > room:
        text = text[:-1]
    return f"{text.rstrip()}…"


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights as near as may be to the wanted ones, at least `gap` apart and within the bounds, in the same order.

    Args:
        values: the wanted heights.
        gap: the least distance.
        low: lower bound.
        high: upper bound; if there is too little room, the gap shrinks.
    """
    if len(values) < 2:
        return [min(max(value, low), high) for value in values]
    gap = min(gap, (high - low) / (len(values) - 1))
    order = sorted(range(len(values)), key=lambda i: values[i])
    # Blocks of labels that touch move to the mean of what they want; merging goes on until no two blocks touch.
    blocks: list[list[float]] = []  # sum of wanted starts, count
    for rank, index in enumerate(order):
        blocks.append([values[index] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    starts = [total / count for total, count in blocks for _ in range(int(count))]
    top = high - (len(values) - 1) * gap
    placed = [0.0] * len(values)
    for rank, index in enumerate(order):
        placed[index] = min(max(starts[rank], low), top) + rank * gap
    return placed


def _places(width: float) -> list[tuple[float, float]]:
    """Where the middle of a label's left edge may be, from its point: nearest first, the right side first."""
    places = []
    for ring in range(_RINGS):
        far = _NEAR + ring * _STEP
        up = 4 + far
        places += [(far, 0.0), (-far - width, 0.0), (-width / 2, up), (-width / 2, -up)]
        places += [(far * 0.6, up * 0.8), (far * 0.6, -up * 0.8), (-far * 0.6 - width, up * 0.8), (-far * 0.6 - width, -up * 0.8)]
    return places


def _cost(place: tuple[float, float], box: Bbox, taken: Sequence[Bbox], bounds: Bbox) -> float:
    """How bad a place is: covered area first, then distance."""
    covered = sum(_overlap(box, other) for other in taken)
    outside = box.width * box.height - _overlap(box, bounds)
    return 10 * outside + 3 * covered + _distance(*place, box.width)


def _distance(dx: float, dy: float, width: float) -> float:
    """From the point to the nearest edge of the label."""
    across = max(dx, -dx - width, 0.0)
    return float((across**2 + dy**2) ** 0.5)


def _overlap(a: Bbox, b: Bbox) -> float:
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    high = min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(wide * high) if wide > 0 and high > 0 else 0.0
