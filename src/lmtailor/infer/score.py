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
from lmtailor.tasks.metrics import Score
from lmtailor.tasks.metrics.text.evaluate import perplexity

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


def perplexity_of(items: Sequence[Encoded], log_p: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> Score:
    """Perplexity of the targets of items: exp of the mean −log p of all their tokens.

    The references of one example are one example in the bootstrap: they are not independent of each other.

    Args:
        items: what was scored.
        log_p: the summed log-probability of each one's target tokens (nats).
        resamples: of the bootstrap.
        seed: of the resamples.
    """
    sums: dict[str, tuple[float, int]] = {}
    for item, own in zip(items, log_p, strict=True):
        before, units = sums.get(item.id, (0.0, 0))
        sums[item.id] = before + own, units + item.units
    whole, units_of = zip(*sums.values(), strict=True)
    return perplexity(whole, units_of, resamples=resamples, seed=seed)


def decide(scores_NC: Tensor, kind: TaskKind) -> NDArray[Any]:
    """Answers (n,): the index of the label with the highest score, or the value in regression."""
    answers: NDArray[Any] = (scores_NC[:, 0].double() if kind == "regression" else scores_NC.argmax(1)).cpu().numpy()
    return answers
