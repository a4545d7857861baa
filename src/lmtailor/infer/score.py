"""Scoring examples: batches of like length, one pass through the attached model each.

Shapes: n examples, C labels (1 in regression).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lmtailor.edits.attach import Attached
from lmtailor.readouts.batch import Batch, Encoded
from lmtailor.readouts.readout import Reading
from lmtailor.tasks.example import TaskKind

Progress = Callable[[int, int], None]
"""Called with how many examples are done, and of how many."""


def by_length(items: Sequence[Encoded], batch_size: int) -> Iterator[list[int]]:
    """Indices of examples in batches of like length, the longest first, so that too little memory shows at once."""
    order = sorted(range(len(items)), key=lambda i: (-items[i].length, i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def score(
    attached: Attached,
    slot: int,
    reading: Reading,
    items: Sequence[Encoded],
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> Tensor:
    """Scores (n, C) of examples under one adapter, on the CPU, without gradient.

    Args:
        attached: with this adapter in `slot`, and no rows or all rows of it.
        slot: which adapter.
        reading: its readout.
        items: its examples, encoded.
        batch_size: examples in a batch.
        progress: told after every batch.
    """

    def run(batch: Batch) -> Tensor:
        return attached.scores(slot, attached.states(batch.inputs, batch.answer_N), batch)

    return score_with(run, reading, items, attached.base.device, batch_size=batch_size, progress=progress)


def score_with(
    run: Callable[[Batch], Tensor],
    reading: Reading,
    items: Sequence[Encoded],
    device: torch.device,
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> Tensor:
    """Scores (n, C) by any function from a batch to its scores."""
    out: Tensor | None = None
    done = 0
    with torch.no_grad():
        for indices in by_length(items, batch_size):
            scores = run(reading.collate([items[i] for i in indices]).to(device)).float().cpu()
            if out is None:
                out = scores.new_empty(len(items), scores.shape[1])
            out[torch.tensor(indices)] = scores
            done += len(indices)
            if progress is not None:
                progress(done, len(items))
    return torch.empty(0, max(1, len(reading.labels))) if out is None else out


def decide(scores_NC: Tensor, kind: TaskKind) -> NDArray[Any]:
    """Answers (n,): the index of the label with the highest score, or the value in regression."""
    answers: NDArray[Any] = (scores_NC[:, 0].double() if kind == "regression" else scores_NC.argmax(1)).cpu().numpy()
    return answers
