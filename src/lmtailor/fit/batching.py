"""The order of training examples: a function of (seed, epoch) alone, in batches of like length."""

from collections.abc import Sequence

import torch

from lmtailor.core.rng import generator

POOL = 50
"""Batches' worth of examples that are sorted by length together: random enough to train, alike enough to save padding."""


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """All examples once, as lists of indices.

    The examples are shuffled; runs of `POOL` batches are sorted by length and cut into batches; the batches are shuffled.

    Args:
        lengths: tokens of each example.
        batch_size: examples in a batch; the last one may have fewer.
        seed: of the run.
        epoch: from 0.
    """
    rng = generator(seed, "order", epoch)
    order = torch.randperm(len(lengths), generator=rng).tolist()
    batches: list[list[int]] = []
    width = POOL * batch_size
    for start in range(0, len(order), width):
        pool = sorted(order[start : start + width], key=lambda i: (lengths[i], i))
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=rng).tolist()]


def steps_in(examples: int, batch_size: int, accumulate: int) -> int:
    """Optimizer steps in one epoch."""
    batches = -(-examples // batch_size)
    return -(-batches // accumulate)
