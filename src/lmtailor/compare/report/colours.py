"""One colour for each way of acting on a model, one shape for each base, the same in all pictures and tables.

Colours are names of CSS variables, so that one picture serves light and dark.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lmtailor.compare.leaderboard import Leaderboard, Row

SHAPES = ("o", "s", "D", "^", "v", "P")
"""Matplotlib's names: circle, square, diamond, triangles, plus."""

Dashes = str | tuple[int, tuple[float, ...]]
"""A line style, as Matplotlib takes it."""

DASHES: tuple[Dashes, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))
"""Lines of one colour are told apart by these."""


@dataclass(frozen=True, kw_only=True)
class Hue:
    """A group of cells that act on the model in the same way."""

    key: str
    """The CSS variable is --hue-KEY."""
    label: str


HUES = {
    hue.key: hue
    for hue in (
        Hue(key="baseline", label="no model: the baseline"),
        Hue(key="prompt", label="nothing trained: prompt only"),
        Hue(key="probe", label="readout alone"),
        Hue(key="weights", label="the model's own weights"),
        Hue(key="projections", label="projections and norms"),
        Hue(key="hidden", label="layers put in between"),
        Hue(key="prefix", label="prefixes and prompts"),
        Hue(key="mixed", label="several of these"),
    )
}


def hue(row: Row) -> Hue:
    """The group of a cell. It comes from the kinds of its edits, so that a new method needs no entry here."""
    if row.baseline:
        return HUES["baseline"]
    touched = [touch for touch in row.touches if touch != "nothing"]
    if not touched:
        return HUES["probe" if row.trained_parameters else "prompt"]
    return HUES[touched[0]] if len(touched) == 1 else HUES["mixed"]


def hues_of(rows: Sequence[Row]) -> list[Hue]:
    """The groups that occur, in the order of `HUES`."""
    found = {hue(row).key for row in rows}
    return [one for key, one in HUES.items() if key in found]


def shapes_of(board: Leaderboard) -> dict[str, str]:
    """Base → marker; empty if there is one base only, which needs no telling apart."""
    bases = list(dict.fromkeys(row.base for row in board.rows if row.base))
    return {} if len(bases) < 2 else {base: SHAPES[number % len(SHAPES)] for number, base in enumerate(bases)}
