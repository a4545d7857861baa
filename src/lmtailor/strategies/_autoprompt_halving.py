"""Successive halving: many candidates on few examples, few candidates on many.  Jamieson & Talwalkar 2016, arXiv:1502.07943,
figure 3 (their "arms" are candidates here, a "pull" is one more example).

Shapes: A candidates, N examples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Losses = Callable[[Sequence[int], range], Tensor]
"""From the numbers of candidates and a range of examples to losses (candidates, examples)."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is asked in one round."""

    examples: range
    """Examples that were not asked before."""
    survivors: int
    """How many candidates go on."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What came out."""

    best: int
    """The candidate with the lowest mean loss of those that saw every example; of equals the first."""
    loss: float
    """Its mean loss."""
    kept: float
    """The mean loss of candidate 0, which is never cut."""


def plan_rounds(candidates: int, examples: int, share: int) -> list[Round]:
    """The rounds: after each, one in `share` candidates goes on, to `share` times as many examples in all.

    Every round so costs about the same. The last one sees all examples.

    Args:
        candidates: A.
        examples: N.
        share: 1 asks all candidates for all examples at once.
    """
    count = 1
    while share > 1 and share**count < candidates:
        count += 1
    ends = [max(1, -(-examples // share ** (count - 1 - number))) for number in range(count)]
    starts = [0, *ends[:-1]]
    return [
        Round(examples=range(start, end), survivors=-(-candidates // share ** (number + 1)))
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def successive_halving(candidates: int, examples: int, share: int, losses: Losses) -> Ranking:
    """Find the candidate with the lowest mean loss. Candidate 0, the one to beat, is compared on every example.

    Args:
        candidates: A.
        examples: N.
        share: see `plan_rounds`.
        losses: asked for every candidate that is left, on new examples each round.
    """
    sums_A = torch.zeros(candidates, dtype=torch.float64)
    order, going_on = list(range(candidates)), candidates
    for step in plan_rounds(candidates, examples, share):
        alive = sorted({0, *order[:going_on]})
        if step.examples:
            sums_A[alive] += losses(alive, step.examples).double().sum(1).cpu()
        order, going_on = sorted(alive, key=lambda number: (float(sums_A[number]), number)), step.survivors
    best = order[0]
    return Ranking(best=best, loss=float(sums_A[best]) / examples, kept=float(sums_A[0]) / examples)
