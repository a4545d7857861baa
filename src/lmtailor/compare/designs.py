"""The curves that a plan's cells make: over sizes and settings, as the plan says, and over bases, as cells are found alike."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lmtailor.compare.plan import Cell
from lmtailor.compare.positions import BASE, Position, tidy


def all_positions(cells: Sequence[Cell]) -> Mapping[str, tuple[Position, ...]]:
    """Cell → on which curves it is a point; cells that are on none are left out.

    Cells that differ only in their base make a curve over bases, however they were written.
    """
    bases = _over_bases(cells)
    found = {cell.name: (*cell.positions, *bases.get(cell.name, ())) for cell in cells}
    return {name: own for name, own in found.items() if own}


def _over_bases(cells: Sequence[Cell]) -> dict[str, tuple[Position]]:
    groups: list[tuple[Cell, list[Cell]]] = []
    for cell in cells:
        if cell.base is None:
            continue
        alike = replace(cell, name="-", base=None, positions=())
        own = next((group for key, group in groups if key == alike), None)
        if own is None:
            groups.append((alike, [cell]))
        else:
            own.append(cell)
    return {
        cell.name: (Position(axis=BASE, line=_line(group), text=cell.base or ""),)
        for _, group in groups
        if len({one.base for one in group}) > 1
        for cell in group
    }


def _line(group: Sequence[Cell]) -> str:
    """What the names have in common without their bases, else the method and the readout."""
    names = {tidy(re.sub(rf"(?<!\w){re.escape(cell.base or '')}(?!\w)", "", cell.name)) for cell in group}
    if len(names) == 1 and "" not in names:
        return names.pop()
    return " · ".join(part for part in (group[0].method_name, group[0].readout_name) if part)
