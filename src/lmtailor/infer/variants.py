"""Readouts that answer with several prompts: the labels' probabilities are averaged over them.

Shapes: n examples, C labels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.edits.edits import Edits
from lmtailor.infer.score import Progress, table
from lmtailor.infer.unmask import score_encoded
from lmtailor.readouts.batch import Encoded
from lmtailor.readouts.readout import Reading
from lmtailor.tasks.example import Example


def averaged(scores: Sequence[Tensor]) -> Tensor:
    """The log of the mean of the labels' probabilities (…, C); the scores themselves where there is one prompt."""
    if len(scores) == 1:
        return scores[0]
    return torch.stack([one.log_softmax(-1) for one in scores]).logsumexp(0) - math.log(len(scores))


def score_examples(
    base: Base,
    edits: Edits,
    reading: Reading,
    examples: Sequence[Example],
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> tuple[Tensor, list[Encoded]]:
    """Scores (n, C) of examples under one adapter, and the examples as its first prompt encodes them.

    Args:
        base: the model.
        edits: of the adapter.
        reading: its readout.
        examples: what to answer.
        batch_size: examples in a batch.
        progress: told after every batch the examples done, once for each prompt, and of how many.
    """
    variants = reading.variants()
    encoded = [[one.encode(example) for example in examples] for one in variants]
    scores = []
    for number, (one, items) in enumerate(zip(variants, encoded, strict=True)):
        tell = None if progress is None else beyond(progress, number * len(examples), len(variants) * len(examples))
        rows = score_encoded(base, edits, one, items, batch_size=batch_size, progress=tell)
        scores.append(table(rows, max(1, len(one.labels))))
    return averaged(scores), encoded[0]


def beyond(progress: Progress, before: int, total: int) -> Progress:
    """A listener to a part of the work: what was done before is added to what it hears."""
    return lambda done, _: progress(before + done, total)
