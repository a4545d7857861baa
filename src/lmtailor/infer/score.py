"""Scores of examples under one adapter, in batches of like length.

Shapes: n examples, C labels (1 in regression).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.edits.edits import Edits
from lmtailor.infer.run import run
from lmtailor.readouts.batch import Encoded, by_item
from lmtailor.readouts.readout import Reading
from lmtailor.tasks.example import TaskKind

Progress = Callable[[int, int], None]
"""Called with how many examples are done, and of how many."""


def by_length(items: Sequence[Encoded], batch_size: int) -> Iterator[list[int]]:
    """Indices of examples in batches of like length, the longest first, so that too little memory shows at once."""
    order = sorted(range(len(items)), key=lambda i: (-items[i].length, i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def score_rows(
    base: Base,
    edits: Edits,
    reading: Reading,
    items: Sequence[Encoded],
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Scores (units, C) of each example under one adapter, on the CPU, without gradient.

    Args:
        base: the model.
        edits: of the adapter.
        reading: its readout.
        items: its examples, encoded.
        batch_size: examples in a batch.
        progress: told after every batch.
    """
    rows: dict[int, Tensor] = {}

    def keep(indices: list[int], scores: Tensor) -> None:
        rows.update(zip(indices, by_item(scores, [items[i] for i in indices]), strict=True))
        if progress is not None:
            progress(len(rows), len(items))

    run(base, edits, reading, items, lambda own: by_length(own, batch_size), keep)
    return [rows[i] for i in range(len(items))]


def table(rows: Sequence[Tensor], columns: int) -> Tensor:
    """Scores (n, C) of examples that have one row each."""
    return torch.cat(list(rows)) if rows else torch.empty(0, columns)


def decide(scores_NC: Tensor, kind: TaskKind) -> NDArray[Any]:
    """Answers (n,): the index of the label with the highest score, or the value in regression."""
    answers: NDArray[Any] = (scores_NC[:, 0].double() if kind == "regression" else scores_NC.argmax(1)).cpu().numpy()
    return answers
