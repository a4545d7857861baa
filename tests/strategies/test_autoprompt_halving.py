"""Successive halving on losses that are known."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmtailor.strategies._autoprompt_halving import plan_rounds, successive_halving


class Table:
    """Losses (candidates, examples) that remember what was asked."""

    def __init__(self, candidates: int, examples: int, best: int, noise: float) -> None:
        rng = torch.Generator().manual_seed(0)
        self.losses_AN = 1.0 + noise * torch.randn(candidates, examples, generator=rng)
        self.losses_AN[best] -= 0.5
        self.asked_AN = torch.zeros(candidates, examples, dtype=torch.long)

    def __call__(self, numbers: Sequence[int], part: range) -> Tensor:
        self.asked_AN[list(numbers), part.start : part.stop] += 1
        return self.losses_AN[list(numbers), part.start : part.stop]


def test_rounds_cost_the_same_and_the_last_one_sees_all() -> None:
    rounds = plan_rounds(64, 640, 2)
    assert [step.examples.stop for step in rounds] == [20, 40, 80, 160, 320, 640]
    assert [step.survivors for step in rounds] == [32, 16, 8, 4, 2, 1]
    assert [step.examples.start for step in rounds] == [0, 20, 40, 80, 160, 320]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 5))
def test_rounds_cover_every_example_once(candidates: int, examples: int, share: int) -> None:
    rounds = plan_rounds(candidates, examples, share)
    assert [i for step in rounds for i in step.examples] == list(range(examples))
    left = [candidates, *(step.survivors for step in rounds)]
    assert all(after <= before for before, after in itertools.pairwise(left))
    assert left[-2] <= share or share == 1


@pytest.mark.parametrize("share", [1, 2, 3, 5])
@pytest.mark.parametrize("best", [0, 1, 57, 100])
def test_it_keeps_the_best(share: int, best: int) -> None:
    table = Table(101, 720, best, noise=0.3)
    found = successive_halving(101, 720, share, table)
    assert found.best == best
    assert found.loss == pytest.approx(float(table.losses_AN[best].mean()), rel=1e-5)
    assert found.kept == pytest.approx(float(table.losses_AN[0].mean()), rel=1e-5)
    assert int(table.asked_AN.max()) == 1, "nothing is asked twice"
    assert bool((table.asked_AN[[0, best]] == 1).all()), "the one to beat and the winner see every example"
    cost = int(table.asked_AN.sum())
    assert cost == 101 * 720 if share == 1 else cost < 101 * 720 / 5


def test_of_equals_the_first_wins_so_that_nothing_changes_without_gain() -> None:
    assert successive_halving(9, 30, 2, lambda numbers, part: torch.ones(len(numbers), len(part))).best == 0
