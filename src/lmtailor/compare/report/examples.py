"""Where answers are texts: some examples with their references, and what cells answered, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lmtailor.compare.answers import Texts
from lmtailor.compare.leaderboard import Leaderboard, Row, Run
from lmtailor.compare.numbers import metric_name, score
from lmtailor.tasks.example import TaskKind
from lmtailor.tasks.metrics.text.table import get_text_metric

EACH = 2
"""So many examples are shown of the worst, of the middle and of the best."""
MOST_CELLS = 4
"""Cells besides the baseline."""
MOST_REFERENCES = 3
LONGEST = 700
"""Of a longer text only so many characters are shown."""

_ORDERED: Mapping[TaskKind, str] = {"generation": "rouge_l", "labelling": "tag_accuracy", "span": "answer_f1"}
"""What orders examples: a metric that means something for one of them alone, as BLEU does not."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a text: in labelling a word with its tag, else the whole."""

    text: str
    tag: str = ""
    wrong: bool = False
    """Whether the tag is another than the reference's."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one cell answered."""

    cell: str
    pieces: tuple[Piece, ...]
    """None if it answered nothing."""
    score: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One example."""

    asked: str
    references: tuple[tuple[Piece, ...], ...]
    more: int
    """References that are not shown."""
    said: tuple[Said, ...]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """All that are shown."""

    lines: tuple[Shown, ...]
    caption: str


def text_examples(board: Leaderboard, runs: Sequence[Run], chosen: str | None) -> Examples | None:
    """Examples of the ranking split; None where answers are no texts.

    Args:
        board: where cells stand.
        runs: their answers.
        chosen: the cell whose answers order the examples; None: the best one.
    """
    metric = _ORDERED.get(board.about.kind)
    first = chosen if chosen is not None or board.best is None else board.best.cell
    if metric is None or first is None:
        return None
    texts = {row.cell: one for row in _rows(board, first) if (one := _texts(board, runs, row.cell)) is not None}
    if first not in texts:
        return None
    texts = {cell: one for cell, one in texts.items() if one.asked == texts[first].asked}
    scores = {cell: get_text_metric(metric).value(one.statistics(metric)) for cell, one in texts.items()}
    indices = _spread(scores[first])
    lines = tuple(
        _shown(texts, {cell: float(values[index]) for cell, values in scores.items()}, index, board.about.kind)
        for index in indices
    )
    worst = "All of them" if len(indices) == len(scores[first]) else "The worst, some of the middle and the best"
    caption = (
        f"{worst}, by the {metric_name(metric)} of {first}: {len(indices)} of {len(scores[first])} of {board.about.split}. "
        f"Beside each route's name is the {metric_name(metric)} of that one answer; of several seeds the first one answers."
    )
    return Examples(lines=lines, caption=caption)


def _rows(board: Leaderboard, first: str) -> list[Row]:
    """The best cells, `first` among them, and the baseline behind them."""
    real = [row for row in board.rows if not row.baseline]
    kept = [row for row in real if row.cell == first] + [row for row in real if row.cell != first][: MOST_CELLS - 1]
    return [*sorted(kept, key=real.index), *(row for row in board.rows if row.baseline)]


def _texts(board: Leaderboard, runs: Sequence[Run], cell: str) -> Texts | None:
    """The answers of a cell's first seed."""
    own = [run for run in runs if run.record.cell == cell and run.record.status == "done"]
    one = min(own, key=lambda run: run.record.seed).answers.get(board.about.split)
    return one if isinstance(one, Texts) else None


def _spread(values: np.ndarray) -> list[int]:
    """Indices of the worst, of the middle and of the best."""
    order = [int(index) for index in np.argsort(values, kind="stable")]
    middle = len(order) // 2
    chosen = order if len(order) <= 3 * EACH else [*order[:EACH], *order[middle : middle + EACH], *order[-EACH:]]
    return list(dict.fromkeys(chosen))


def _shown(texts: Mapping[str, Texts], scores: Mapping[str, float], index: int, kind: TaskKind) -> Shown:
    one = next(iter(texts.values()))
    asked, references = one.asked[index], one.reference[index]
    tagged = kind == "labelling"
    return Shown(
        asked=asked,
        references=tuple(_pieces(asked, text, text if tagged else None) for text in dict.fromkeys(references[:MOST_REFERENCES])),
        more=max(len(references) - MOST_REFERENCES, 0),
        said=tuple(
            Said(
                cell=cell,
                pieces=_pieces(asked, own.predicted[index], references[0] if tagged else None),
                score=score(scores[cell]),
            )
            for cell, own in texts.items()
        ),
    )


def _pieces(asked: str, text: str, right: str | None) -> tuple[Piece, ...]:
    """A text whole; or words with their tags, where the right tags are given. None of an empty text."""
    if right is None:
        whole = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
        return (Piece(text=whole),) if whole.strip() else ()
    words = zip(asked.split(" "), text.split(), right.split(), strict=False)  # of a long sentence only the beginning is kept
    return tuple(Piece(text=word, tag=tag, wrong=tag != other) for word, tag, other in words)
