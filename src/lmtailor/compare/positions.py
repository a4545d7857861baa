"""Where cells stand in a design: on a curve over training sizes, over a setting, or over bases.

A design is nothing but cells that differ in one thing. Each cell keeps its own name, runs and records; its positions say on
which curve of which picture it is a point.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

EXAMPLES = "examples"
"""The axis of training sizes."""
BASE = "base"
"""The axis of bases."""

_DANGLING = re.compile(r"(?:\s+(?:on|with|in|at|of|for|by|from)|[\s·,:;@/+=_-])+$")
"""What a name ends with when its last part is taken away."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """One cell on one axis."""

    axis: str
    """`EXAMPLES`, `BASE`, a setting such as "method.length", or the name that a plan gave to a sweep."""
    line: str
    """The name of the curve: the cell's name without this axis."""
    text: str
    """The value as words."""
    number: float | None = None
    """The value, where it is a number. None for bases: their runs know how many parameters they have."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One value of one axis while cells are named."""

    axis: str
    said: str
    """In a name: "length 5", "50 examples"."""
    text: str
    """Alone: "5", "50"."""
    number: float | None = None


def marked_name(name: str, marks: Iterable[Mark], *, without: str | None = None) -> str:
    """A cell's name with its values: in place of {axis} where the name has that, else at the end.

    Args:
        name: of the cell without its values.
        marks: its values.
        without: an axis to leave out, for the name of a curve.
    """
    behind = []
    for mark in marks:
        place = f"{{{mark.axis}}}"
        if place in name:
            name = name.replace(place, mark.text if mark.axis != without else "")
        elif mark.axis != without:
            behind.append(mark.said)
    return tidy(" · ".join([name, *behind])) if without is not None else " · ".join([name, *behind])


def positions_of(name: str, marks: Iterable[Mark]) -> tuple[Position, ...]:
    """The positions of a cell with these values; see `marked_name`."""
    marks = tuple(marks)
    return tuple(
        Position(
            axis=mark.axis,
            line=marked_name(name, marks, without=mark.axis) or mark.axis,
            text=mark.text,
            number=mark.number,
        )
        for mark in marks
    )


def smaller_cells(positions: Mapping[str, Iterable[Position]]) -> frozenset[str]:
    """The cells that have one on the same curve with more training examples.

    Args:
        positions: cell → where it stands.
    """
    sizes = {cell: (one.line, one.number or 0.0) for cell, own in positions.items() for one in own if one.axis == EXAMPLES}
    largest: dict[str, float] = {}
    for line, size in sizes.values():
        largest[line] = max(size, largest.get(line, 0.0))
    return frozenset(cell for cell, (line, size) in sizes.items() if size < largest[line])


def tidy(name: str) -> str:
    """A name from which a part was taken, without the gap, the separator or the "on" that the part leaves."""
    parts = [" ".join(part.split()) for part in name.split(" · ")]
    return " · ".join(kept for part in parts if (kept := _DANGLING.sub("", part).lstrip(" ·,:;")))
