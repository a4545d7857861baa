"""The order of training examples: a function of (seed, epoch) alone, in batches of like length."""

from collections import Counter
from collections.abc import Hashable, Sequence

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


def grouped_batches(
    groups: Sequence[Hashable], lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """All examples once, those of one group together as far as a batch holds them.

    A group that is larger than a batch is drawn into whole batches and a rest. Which sizes of pieces stand together is the same
    in all epochs, and so is the number of batches; which pieces they are is drawn, from pools that are sorted by length.

    Args:
        groups: of each example.
        lengths: tokens of each example.
        batch_size: the most examples in a batch.
        seed: of the run.
        epoch: from 0.
    """
    rng = generator(seed, "order", epoch)
    members: dict[Hashable, list[int]] = {}
    for i in torch.randperm(len(groups), generator=rng).tolist():
        members.setdefault(groups[i], []).append(i)
    pieces: dict[int, list[list[int]]] = {}
    for own in members.values():
        start = 0
        for size in _piece_sizes(len(own), batch_size):
            pieces.setdefault(size, []).append(own[start : start + size])
            start += size
    for size, same in pieces.items():
        pool = max(1, POOL * batch_size // size)
        for start in range(0, len(same), pool):
            same[start : start + pool] = sorted(same[start : start + pool], key=lambda piece: max(lengths[i] for i in piece))
    batches = [[i for size in sizes for i in pieces[size].pop()] for sizes in _bins(groups, batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=rng).tolist()]


def grouped_count(groups: Sequence[Hashable], batch_size: int) -> int:
    """How many batches `grouped_batches` makes."""
    return len(_bins(groups, batch_size))


def _piece_sizes(count: int, most: int) -> list[int]:
    """So many, divided into whole batches and what is left, which fills up better than pieces of like size."""
    return [most] * (count // most) + [count % most] * (count % most > 0)


def _bins(groups: Sequence[Hashable], batch_size: int) -> list[list[int]]:
    """The sizes of the pieces in each batch: the largest piece first, with the largest that still fit beside it."""
    left = Counter(size for count in Counter(groups).values() for size in _piece_sizes(count, batch_size))
    bins: list[list[int]] = []
    while left.total():
        room, own = batch_size, []
        for size in range(batch_size, 0, -1):
            taken = min(left[size], room // size)
            own += [size] * taken
            left[size] -= taken
            room -= taken * size
        bins.append(own)
    return bins


def steps_in(examples: int, batch_size: int, accumulate: int) -> int:
    """Optimizer steps in one epoch of `epoch_batches`."""
    batches = -(-examples // batch_size)
    return -(-batches // accumulate)
