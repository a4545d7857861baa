"""The axis that all pictures of scores share."""

from collections.abc import Sequence
from typing import Literal

from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from lmtailor.compare.baseline import baseline_words
from lmtailor.compare.leaderboard import Leaderboard
from lmtailor.compare.report.canvas import Canvas, colour

_NEAR = 0.35
"""The baseline is drawn if it is no further from the scores than this, or than this part of the largest; else it would press
all of them together."""


def score_axis(
    canvas: Canvas, values: Sequence[float], board: Leaderboard, *, axis: Literal["x", "y"], baseline: bool = True
) -> list[Bbox]:
    """Limits, ticks, grid, and the baseline as a line of its own.

    Args:
        canvas: to draw on.
        values: everything that must be visible.
        board: for the baseline.
        axis: which axis shows scores.
        baseline: whether to draw the baseline.

    Returns:
        Boxes of texts that other texts should not cover (display pixels); they are right once all limits are set.
    """
    axes = canvas.axes
    low, high = min(values), max(values)
    base = board.baseline.score.value if baseline and board.baseline is not None else None
    shown = base is not None and low - base < _NEAR * max(1.0, high)
    if shown and base is not None:
        low, high = min(low, base), max(high, base)
    pad = max(0.04 * (high - low), 0.01)
    limits, dimension = (low - 1.2 * pad, high + pad), getattr(axes, f"{axis}axis")
    (axes.set_xlim if axis == "x" else axes.set_ylim)(*limits)
    dimension.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    dimension.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}".replace("-", "−")))
    dimension.grid(True)
    if shown and base is not None:
        line = axes.axvline if axis == "x" else axes.axhline
        line(base, color=colour("hue-baseline"), linewidth=1.2, linestyle=(0, (4, 3)))
        if axis == "y":
            text = axes.annotate(
                baseline_words(board.about.kind).short,
                (1, base),
                xycoords=("axes fraction", "data"),
                xytext=(0, 5),
                textcoords="offset pixels",
                ha="right",
                color=colour("muted"),
                fontsize=11,
            )
            return [text.get_window_extent()]
    return []
