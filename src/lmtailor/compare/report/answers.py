"""What a cell answers where: the confusion of labels or tags as a table; in regression a picture of predictions and the truth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmtailor.compare.answers import Answers, AnyAnswers, Numbers
from lmtailor.compare.leaderboard import Leaderboard, Run
from lmtailor.compare.numbers import count
from lmtailor.compare.report.canvas import Canvas, Picture, colour, make_picture

MOST_LABELS = 12
"""More labels make a table that nobody reads; the most frequent confusions are listed instead."""
MOST_PAIRS = 15


@dataclass(frozen=True, kw_only=True)
class Cell:
    """How often texts, or words, of one label got another."""

    share: float
    """Of the texts with the true label, from 0 to 1."""
    count: float
    """Mean over seeds."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """The texts of one true label."""

    label: str
    n: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """What a cell takes for what, over all its seeds."""

    cell: str
    labels: tuple[str, ...]
    lines: tuple[Line, ...]
    """One a label; empty if there are too many labels."""
    pairs: tuple[tuple[str, str, float, float], ...]
    """The most frequent mistakes: truth, answer, count a seed, share of the truth's texts."""


def confusion(board: Leaderboard, runs: Sequence[Run], cell: str) -> Confusion:
    """The confusion of one cell on the ranking split: of texts with labels, or of words with tags."""
    labels = board.about.labels
    counts_CC, seeds = np.zeros((len(labels), len(labels))), 0
    for run in runs:
        if run.record.cell == cell and run.record.status == "done":
            np.add.at(counts_CC, _indices(run.answers[board.about.split], labels), 1)
            seeds += 1
    counts_CC /= max(seeds, 1)
    n_C = counts_CC.sum(axis=1)
    shares_CC = counts_CC / np.maximum(n_C, 1)[:, None]
    lines = [
        Line(
            label=label,
            n=round(n_C[i]),
            cells=tuple(Cell(share=float(shares_CC[i, j]), count=float(counts_CC[i, j])) for j in range(len(labels))),
        )
        for i, label in enumerate(labels)
    ]
    wrong_CC = counts_CC * (1 - np.eye(len(labels)))
    order = np.argsort(-wrong_CC, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [
        (labels[i], labels[j], float(wrong_CC[i, j]), float(shares_CC[i, j]))
        for i, j in zip(*np.unravel_index(order, wrong_CC.shape), strict=True)
        if wrong_CC[i, j] > 0
    ]
    return Confusion(cell=cell, labels=labels, lines=tuple(lines) if len(labels) <= MOST_LABELS else (), pairs=tuple(pairs))


def _indices(one: AnyAnswers, labels: Sequence[str]) -> tuple[Numbers, Numbers]:
    """True labels and answers as indices. Tags that are no labels of train stand for nothing here and are left out."""
    if isinstance(one, Answers):
        return one.reference.astype(int), one.predicted.astype(int)
    number = {label: index for index, label in enumerate(labels)}
    pairs = [
        (number[right], number[said])
        for own, text in zip(one.reference, one.predicted, strict=True)
        for right, said in zip(own[0].split(), text.split(), strict=True)
        if right in number and said in number
    ]
    pairs_2M = np.array(pairs, dtype=int).reshape(-1, 2).T
    return pairs_2M[0], pairs_2M[1]


def regression_picture(board: Leaderboard, runs: Sequence[Run], cell: str, *, name: str) -> Picture:
    """Predictions of a cell's first seed against the truth."""
    run = next(run for run in runs if run.record.cell == cell and run.record.status == "done")
    answers = run.answers[board.about.split]
    assert isinstance(answers, Answers)
    truth_N, predicted_N = answers.reference.tolist(), answers.predicted.tolist()
    n = len(truth_N)
    return make_picture(
        name,
        title=f"What {cell} answers",
        alt=f"Predicted against true values of {count(n)} texts by {cell}.",
        caption=f"Each point is one of {n} texts of {board.about.split}, seed {run.record.seed}. "
        "On the line, the prediction is right.",
        draw=lambda width: _scatter(truth_N, predicted_N, width),
    )


def _scatter(truth: list[float], predicted: list[float], width: int) -> Canvas:
    side = min(width, 400)
    canvas = Canvas(width, side, (46, max(width - side, 0) + 14, 46, 16))
    axes = canvas.axes
    low, high = min(truth + predicted), max(truth + predicted)
    pad = 0.04 * (high - low) or 1.0
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(low - pad, high + pad)
    axes.grid(True)
    axes.plot([low, high], [low, high], color=colour("muted"), linewidth=1.2, linestyle=(0, (4, 3)))
    step = max(1, len(truth) // 2000)  # more points than this hide each other and weigh a page down
    axes.plot(truth[::step], predicted[::step], "o", markersize=4, color=colour("accent"), alpha=0.35, markeredgewidth=0)
    axes.set_xlabel("true value", labelpad=8)
    axes.set_ylabel("predicted value", labelpad=8)
    return canvas
