"""Picture: the score on the task's own test set beside the scores out of domain."""

from collections.abc import Sequence

from matplotlib.lines import Line2D

from lmtailor.compare.leaderboard import Leaderboard, Row
from lmtailor.compare.numbers import interval, listed, metric_name, score
from lmtailor.compare.recommend import Recommendation
from lmtailor.compare.report.axes import score_axis
from lmtailor.compare.report.canvas import Canvas, Picture, colour, make_picture
from lmtailor.compare.report.colours import hue
from lmtailor.compare.report.labels import fitted, text_width

_MARKERS = ("D", "s", "^", "v", "P", "X")
_ROOM = 0.38
"""The most of the picture's width that names may take; longer ones are cut."""


def domains_picture(board: Leaderboard, recommendation: Recommendation) -> Picture | None:
    """A row a cell: its own test set and the others, tied by a line; None without out-of-domain sets."""
    about = board.about
    if not about.ood:
        return None
    name = metric_name(board.metric)
    alt = f"{name} in and out of domain: " + "; ".join(_said(row, about.ood) for row in board.rows)
    return make_picture(
        "domains",
        title="Does it hold on other text?",
        alt=alt + ".",
        caption=f"{name[:1].upper()}{name[1:]} on {about.split} and on {listed(list(about.ood))}, with 95 % intervals.",
        draw=lambda width: _draw(board, recommendation, width),
    )


def _said(row: Row, splits: Sequence[str]) -> str:
    there = [f"{score(one.value)} on {split}" for split in splits if (one := row.on(split)) is not None]
    return f"{row.cell} {score(row.score.value)}, {listed(there)}"


def _draw(board: Leaderboard, recommendation: Recommendation, width: int) -> Canvas:
    rows, wide = list(board.rows), width > 400
    size = 12 if wide else 11
    room = _ROOM * width
    measure = Canvas(width, 100, (0, 0, 0, 0))
    names = [fitted(measure, row.cell, size=size, room=room) for row in rows]
    left = 8 + max(text_width(measure, name, size=size, bold=True) for name in names)
    canvas = Canvas(width, 84 + 30 * len(rows), (left, 16, 46, 38))
    axes = canvas.axes
    scores = [one for row in rows for one in [row.score, *(row.on(split) for split in board.about.ood)] if one is not None]
    score_axis(canvas, [edge for one in scores for edge in (one.low, one.high)], board, axis="x", baseline=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), names, fontsize=size)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(colour("ink"))
        tick.set_fontweight("bold" if row.cell == recommendation.cell else "normal")
    axes.set_xlabel(metric_name(board.metric), labelpad=8)
    for height, row in enumerate(rows):
        _row(canvas, board, row, height)
    _legend(canvas, board, size)
    return canvas


def _row(canvas: Canvas, board: Leaderboard, row: Row, height: int) -> None:
    axes, ink = canvas.axes, colour(f"hue-{hue(row).key}")
    there = [(split, one) for split in board.about.ood if (one := row.on(split)) is not None]
    values = [row.score.value, *(one.value for _, one in there)]
    axes.plot([min(values), max(values)], [height, height], color=ink, linewidth=1.4, alpha=0.55, zorder=2)
    for one in (row.score, *(one for _, one in there)):
        axes.plot([one.low, one.high], [height, height], color=ink, linewidth=6, alpha=0.22, solid_capstyle="butt", zorder=1)
    for number, (split, one) in enumerate(there):
        (mark,) = axes.plot(
            [one.value],
            [height],
            _MARKERS[number % len(_MARKERS)],
            markersize=6.5,
            markerfacecolor=colour("paper"),
            markeredgecolor=ink,
            markeredgewidth=1.6,
            zorder=3,
        )
        canvas.tip(mark, f"{row.cell}\n{split}: {score(one.value)} {interval(one.low, one.high)}")
    (mark,) = axes.plot([row.score.value], [height], "o", markersize=8, color=ink, markeredgewidth=0, zorder=4)
    canvas.tip(mark, f"{row.cell}\n{board.about.split}: {score(row.score.value)} {interval(row.score.low, row.score.high)}")


def _legend(canvas: Canvas, board: Leaderboard, size: float) -> None:
    """Which mark is which set, above the rows."""
    sets = [("o", board.about.split, colour("muted"))]
    sets += [(_MARKERS[i % len(_MARKERS)], split, colour("paper")) for i, split in enumerate(board.about.ood)]
    handles = [
        Line2D(
            [],
            [],
            marker=marker,
            linestyle="",
            markersize=7,
            markerfacecolor=fill,
            markeredgecolor=colour("muted"),
            label=fitted(canvas, name, size=size, room=canvas.width / 3),
        )
        for marker, name, fill in sets
    ]
    legend = canvas.figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(1 - 8 / canvas.width, 1),
        ncols=min(len(handles), 3 if not canvas.narrow else 2),
        frameon=False,
        fontsize=size,
        handletextpad=0.2,
        columnspacing=1.4,
        borderaxespad=0.4,
    )
    for text in legend.get_texts():
        text.set_color(colour("muted"))
