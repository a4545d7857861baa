"""The horizontal axis of pictures of designs: numbers at their places, linear or logarithmic, or words side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lmtailor.compare.report.canvas import Canvas, colour
from lmtailor.compare.report.labels import fitted, text_width

LOG = 8.0
"""Positive numbers that differ by at least this factor are drawn on a log axis."""
_GAP = 8.0
"""Between the texts of two ticks (pixels)."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Places for values."""

    places: Mapping[str, float]
    """Value as text → its place; places are drawn on a linear axis."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Value as text → what its tick says, where that is something else."""
    numbers: bool
    """Whether distances mean something; words only stand in a row."""

    @property
    def span(self) -> float:
        """From the first place to the last; 1 if there is one place only."""
        return (max(self.places.values()) - min(self.places.values())) or 1.0


def scale_of(values: Sequence[tuple[str, float | None]]) -> Scale:
    """A scale with a place for each value.

    Args:
        values: as text, and as a number; if one of them is no number, all are words, in this order.
    """
    distinct = dict(values)
    numbers = {text: number for text, number in distinct.items() if number is not None}
    if len(numbers) < len(distinct):
        return Scale(places={text: float(place) for place, text in enumerate(distinct)}, numbers=False)
    low, high = min(numbers.values()), max(numbers.values())
    if low > 0 and high / low >= LOG:
        numbers = {text: math.log10(number) for text, number in numbers.items()}
    return Scale(places=numbers, numbers=True)


def draw_scale(canvas: Canvas, scale: Scale, label: str, *, size: float) -> None:
    """Limits, and a tick at each value; of numbers that stand too close to each other some have no text.

    Args:
        canvas: to draw on.
        scale: the places.
        label: below the axis.
        size: of the letters (pixels).
    """
    axes = canvas.axes
    low, pad = min(scale.places.values()), 0.06 if scale.numbers else 0.5
    side = pad * scale.span if scale.numbers else pad
    high = low + (scale.span if len(scale.places) > 1 else 0.0)
    axes.set_xlim(low - side, high + side)
    per_unit = axes.get_window_extent().width / (high - low + 2 * side)
    ordered = sorted(scale.places.items(), key=lambda item: item[1])
    texts = {place: scale.texts.get(text, text) for text, place in ordered}
    if scale.numbers:
        texts = _with_room(canvas, texts, per_unit, size)
    else:
        texts = {place: fitted(canvas, text, size=size, room=per_unit - _GAP / 2) for place, text in texts.items()}
    axes.set_xticks(list(texts), list(texts.values()), fontsize=size)
    axes.set_xticks([place for _, place in ordered], minor=True)
    axes.tick_params(axis="x", which="minor", length=4 if scale.numbers else 0, color=colour("faint"), width=1)
    axes.set_xlabel(label, labelpad=8)


def _with_room(canvas: Canvas, texts: Mapping[float, str], per_unit: float, size: float) -> dict[float, str]:
    """The texts that do not run into each other, the largest value's among them: it is where routes are ranked."""
    kept: dict[float, str] = {}
    edge = math.inf
    for place in sorted(texts, reverse=True):
        half = text_width(canvas, texts[place], size=size) / 2
        if place * per_unit + half + _GAP <= edge:
            kept[place] = texts[place]
            edge = place * per_unit - half
    return dict(sorted(kept.items()))
