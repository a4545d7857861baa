"""Comparisons of designs that never ran: sizes, sweeps and bases."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log10

from lmtailor.compare.folder import About
from lmtailor.compare.leaderboard import Leaderboard, Run, make_leaderboard
from lmtailor.compare.positions import BASE, EXAMPLES, Position
from tests.compare.synthetic import BASES, DEMO, Cell, demo_about, demo_runs

SIZES = (50, 100, 200, 500)
LENGTHS = (1, 5, 10, 20)
Design = tuple[list[Cell], dict[str, tuple[Position, ...]]]
"""Cells, and where each stands."""
ZERO_SHOT, BASELINE = DEMO[7], DEMO[9]


def over_sizes(sizes: Sequence[int] = SIZES) -> Design:
    """LoRA, the probe and full fine-tuning at several training sizes, beside zero-shot and the baseline."""
    cells, positions = [ZERO_SHOT], dict[str, tuple[Position, ...]]()
    for cell, slope in ((DEMO[3], 0.2), (DEMO[0], 0.1), (DEMO[1], 0.27)):
        for size in sizes:
            name = f"{cell.name} · {size} examples"
            right = cell.right - slope * (log10(sizes[-1]) - log10(size))
            cells.append(replace(cell, name=name, right=right, ood=right - 0.15))
            positions[name] = (Position(axis=EXAMPLES, line=cell.name, text=str(size), number=float(size)),)
    return [*cells, BASELINE], positions


def over_lengths() -> Design:
    """A prefix of several lengths in two places, each started in three ways."""
    cells, positions = list[Cell](), dict[str, tuple[Position, ...]]()
    for place, lost in (("front", 0.0), ("infix", 0.05)):
        for number, length in enumerate(LENGTHS):
            name = f"prefix · length {length} · place {place}"
            cells.append(replace(DEMO[6], name=name, right=0.6 - lost + 0.04 * number, trained=18_432 * length))
            positions[name] = (
                Position(axis="method.length", line=f"prefix · place {place}", text=str(length), number=float(length)),
                Position(axis="method.place", line=f"prefix · length {length}", text=place),
            )
    for start, right in (("random", 0.61), ("vocabulary", 0.66), ("class words", 0.7)):
        name = f"soft prompt · {start}"
        cells.append(replace(DEMO[6], name=name, right=right, trained=7_680))
        positions[name] = (Position(axis="start", line="soft prompt", text=start),)
    return [*cells, BASELINE], positions


def over_bases() -> Design:
    """Two methods on two bases."""
    cells, positions = list[Cell](), dict[str, tuple[Position, ...]]()
    for cell in (DEMO[3], DEMO[4]):
        for number, base in enumerate(BASES):
            name = f"{cell.name} on {base}"
            cells.append(replace(cell, name=name, base=base, right=cell.right - 0.1 + 0.07 * number))
            positions[name] = (Position(axis=BASE, line=cell.name, text=base),)
    return [*cells, BASELINE], positions


def compared(
    cells: Sequence[Cell],
    positions: Mapping[str, tuple[Position, ...]],
    *,
    failed: Sequence[tuple[str, int, str]] = (),
    resamples: int = 50,
    n: int = 300,
) -> tuple[About, list[Run], Leaderboard]:
    """A comparison of these cells."""
    about = replace(demo_about(cells, n=n), positions=positions)
    runs = demo_runs(about, cells, failed=failed)
    return about, runs, make_leaderboard(about, runs, resamples=resamples)
