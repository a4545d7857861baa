"""Held-out tasks asked zero-shot of an adapter that writes.

Of choices the likeliest is the answer (rank classification, as in T0, Sanh et al. 2022, arXiv:2110.08207):

    argmax_c Σ_i log p(c_i | input, c_1 … c_{i−1})      not divided by the length

The end token behind a choice is left out: before training, a model does not know that it is to stop there. It counts for all
choices of an example of which one begins with another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.infer.score import Progress, perplexity_of, score_rows
from lmtailor.readouts.batch import Encoded
from lmtailor.readouts.text import TextReading
from lmtailor.store.adapter import Adapter
from lmtailor.tasks.metrics import Scores, evaluate_predictions
from lmtailor.tasks.watched import Watched


class Watching:
    """Held-out tasks as what is run, and their scores from it."""

    def __init__(self, reading: object, watched: Sequence[Watched]) -> None:
        """Encode them.

        Args:
            reading: of the adapter; it writes.
            watched: the tasks.

        Raises:
            InputError: the readout does not write, two tasks have one name, or an example that it refuses.
        """
        if not isinstance(reading, TextReading):
            raise InputError("Held-out tasks are asked of a readout that writes, such as Text. Use it, or leave them out.")
        names = [one.name for one in watched]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"Two held-out tasks are named {twice!r}. Give each its own name.")
        self.watched, self.end = tuple(watched), reading.end
        self.items: list[Encoded] = []
        """Task after task, example after example, choice after choice."""
        for one in watched:
            for example, choices in zip(one.examples, one.choices or [()] * len(one.examples), strict=True):
                asked = replace(example, references=choices or example.references[:1])
                self.items += reading.items(asked)

    def scores(self, rows: Sequence[Tensor], *, resamples: int = 1000, seed: int = 0) -> dict[str, Scores]:
        """Task → accuracy, or perplexity.

        Args:
            rows: for each item log p of its tokens (units, 1).
            resamples: of the bootstrap.
            seed: of it.
        """
        found, place = {}, 0
        for one in self.watched:
            if not one.ranked:
                stop = place + len(one.examples)
                score = perplexity_of(self.items[place:stop], rows[place:stop], resamples=resamples, seed=seed)
                found[one.name], place = Scores([score]), stop
                continue
            right = []
            for example, choices in zip(one.examples, one.choices, strict=True):
                stop = place + len(choices)
                right.append(choices[self._likeliest(rows[place:stop], self.items[place:stop])] == example.references[0])
                place = stop
            found[one.name] = evaluate_predictions(
                ("accuracy",),
                np.array(right, dtype=int),
                np.ones(len(right), dtype=int),
                kind="classification",
                labels=("wrong", "right"),
                resamples=resamples,
                seed=seed,
            )
        return found

    def _likeliest(self, rows: Sequence[Tensor], items: Sequence[Encoded]) -> int:
        """The choice with the highest log p; of equals the first."""
        pieces = [item.targets[0][: -1 if item.targets[0][-1] == self.end else None] for item in items]
        nested = any(a != b and b[: len(a)] == a for a in pieces for b in pieces)
        sums = [float(row.double()[: None if nested else len(own)].sum()) for row, own in zip(rows, pieces, strict=True)]
        return max(range(len(sums)), key=sums.__getitem__)


def evaluate_watched(
    base: Base,
    adapter: Adapter,
    watched: Sequence[Watched],
    *,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
) -> Mapping[str, Scores]:
    """Ask an adapter held-out tasks; `plain_adapter` gives one of the base alone.

    Args:
        base: the model.
        adapter: with a readout that writes and reads the columns of the examples.
        watched: such as those of a mixture.
        batch_size: answers in a batch.
        seed: of the bootstrap.
        progress: told after every batch.

    Returns:
        Task → accuracy where there are choices, else perplexity of the right texts.

    Raises:
        InputError: see `Watching`.
    """
    watching = Watching(adapter.reading, watched)
    assert isinstance(adapter.reading, TextReading)
    rows = score_rows(base, adapter.edits, adapter.reading, watching.items, batch_size=batch_size, progress=progress)
    return watching.scores(rows, seed=seed)
