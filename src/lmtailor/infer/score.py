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
from lmtailor.infer.run import Collating, run
from lmtailor.readouts.batch import Encoded, by_item
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


class Rows:
    """What batches give, as the rows of each item."""

    def __init__(self, items: Sequence[Encoded], progress: Progress | None = None) -> None:
        """Await the batches.

        Args:
            items: what is run.
            progress: told after every batch.
        """
        self.items, self.progress = items, progress
        self._rows: dict[int, Tensor] = {}

    def keep(self, indices: Sequence[int], rows: Tensor) -> None:
        """Take a batch's rows: those of its first item, then of its second."""
        self._rows.update(zip(indices, by_item(rows, [self.items[i] for i in indices]), strict=True))
        if self.progress is not None:
            self.progress(len(self._rows), len(self.items))

    def all(self) -> list[Tensor]:
        """The rows (units, …) of each item, in the order of the items, once every batch is kept."""
        return [self._rows[i] for i in range(len(self.items))]


def score_rows(
    base: Base,
    edits: Edits,
    reading: Collating,
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
    rows = Rows(items, progress)
    run(base, edits, reading, items, lambda own: by_length(own, batch_size), rows.keep)
    return rows.all()


def table(rows: Sequence[Tensor], columns: int) -> Tensor:
    """Scores (n, C) of examples that have one row each."""
    return torch.cat(list(rows)) if rows else torch.empty(0, columns)


def perplexity_of(items: Sequence[Encoded], rows: Sequence[Tensor], *, resamples: int = 1000, seed: int = 0) -> Score:
    """Perplexity of the targets of items: exp of the mean −log p of all their tokens.

    The references of one example are one example in the bootstrap: they are not independent of each other.

    Args:
        items: what was scored.
        rows: the log-probabilities of each one's target tokens (units, 1), in nats.
        resamples: of the bootstrap.
        seed: of the resamples.
    """
    sums: dict[str, tuple[float, int]] = {}
    for item, own in zip(items, rows, strict=True):
        before, units = sums.get(item.id, (0.0, 0))
        sums[item.id] = before + float(own.double().sum()), units + item.units
    whole, units_of = zip(*sums.values(), strict=True)
    return perplexity(whole, units_of, resamples=resamples, seed=seed)


def decide(scores_NC: Tensor, kind: TaskKind) -> NDArray[Any]:
    """Answers (n,): the index of the label with the highest score, or the value in regression."""
    answers: NDArray[Any] = (scores_NC[:, 0].double() if kind == "regression" else scores_NC.argmax(1)).cpu().numpy()
    return answers
