"""A batch in which every method has a row, and each row is what it is alone."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from lmtailor.edits.attach import attach
from tests.conformance.table import BASES, SUPPORTED, Cell
from tests.edits.worn import BEAMS, Worn, apart, base_of, generated, left_padded, logits, row
from tests.tiny import kind_of, tiny_inputs

GENERATES = [key for key in BASES if kind_of(key) != "encoder"]


def mixture(key: str, seed: int) -> tuple[list[Worn], list[int | None]]:
    """One adapter of every cell that can share a batch, and rows that wear them in a random order, some twice, some none."""
    cells: list[Cell] = [cell for cell in SUPPORTED if cell.base_key == key and cell.shares_batch]
    slots: list[int | None] = [*range(len(cells)), *range(0, len(cells), 3), None, None]
    random.Random(seed).shuffle(slots)
    return [cell.worn(seed + number) for number, cell in enumerate(cells)], slots


def alone(key: str, worn: list[Worn], slot: int | None, one: dict[str, Tensor]) -> Tensor:
    base = base_of(key)
    if slot is None:
        return logits(base, one)
    with attach(base, worn[slot]):
        return logits(base, one)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("key", BASES)
def test_a_forward(key: str, grad: bool, seed: int) -> None:
    base = base_of(key)
    worn, slots = mixture(key, seed)
    inputs = tiny_inputs(base, rows=len(slots), seed=seed)
    with torch.set_grad_enabled(grad), attach(base, worn, slots):
        mixed = logits(base, inputs)
    for number, slot in enumerate(slots):
        with torch.no_grad():
            wanted = alone(key, worn, slot, row(inputs, number))
        assert apart(mixed[number : number + 1, : wanted.shape[1]], wanted) < 1e-5, (number, slot)


@pytest.mark.parametrize("options", [{}, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("key", GENERATES)
def test_generate(key: str, options: dict[str, Any]) -> None:
    base = base_of(key)
    worn, slots = mixture(key, 2)
    inputs = left_padded(base, [3 + number % 6 for number in range(len(slots))])
    with torch.no_grad(), attach(base, worn, slots):
        mixed = generated(base, inputs, tokens=4, **options)
    per_row = len(mixed) // len(slots)
    for number, slot in enumerate(slots):
        with torch.no_grad(), attach(base, worn, [slot]):
            wanted = generated(base, row(inputs, number), tokens=4, **options)
        assert torch.equal(mixed[number * per_row : (number + 1) * per_row], wanted), (number, slot)
