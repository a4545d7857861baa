"""bfloat16 bases and autocast: as close to float32 as the plain model is."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.edits.attach import attach
from tests.edits.worn import Worn, apart, backward, base_of, logits, wear
from tests.tiny import FAMILIES, tiny_inputs

NAMES = ("lora", "houlsby", "prefix", "soft_prompt", "bitfit")
SETTINGS: dict[str, dict[str, Any]] = {
    "houlsby": {"bottleneck": 3},
    "prefix": {"length": 3},
    "soft_prompt": {"length": 3},
    "bitfit": {"add_missing": True},
}


def adapters(base: Base, *, grad: bool = False) -> list[Worn]:
    return [wear(base, name, seed, grad=grad, **SETTINGS.get(name, {})) for seed, name in enumerate(NAMES)]


def bounds(base: Base, inputs: dict[str, Tensor], rounded: Tensor) -> float:
    """How far rows may be off: some times what rounding does to the plain model."""
    return 0.02 + 4 * apart(rounded, logits(base, inputs))


@pytest.mark.parametrize("key", FAMILIES)
def test_a_base_in_bfloat16(key: str) -> None:
    base = base_of(key)
    half = Base.from_model(copy.deepcopy(base.model).bfloat16(), base.tokenizer)
    inputs, slots = tiny_inputs(base, rows=6), [*range(5), None]
    worn = adapters(base, grad=True)
    bound = bounds(base, inputs, logits(half, inputs))
    with attach(base, worn, slots):
        wanted = logits(base, inputs)
    with attach(half, worn, slots):
        found = logits(half, inputs)
        backward(found.float().square().mean())
        with torch.no_grad():
            merged = logits(half, inputs)
    assert found.dtype == merged.dtype == torch.bfloat16
    for number in range(6):
        assert apart(found[number], wanted[number]) < bound
        assert apart(merged[number], wanted[number]) < bound
    for adapter in worn:
        for tensor in adapter.edits.state().values():
            assert tensor.dtype == torch.float32
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("key", FAMILIES)
def test_autocast(key: str) -> None:
    base = base_of(key)
    inputs, slots = tiny_inputs(base, rows=6), [*range(5), None]
    worn = adapters(base, grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = logits(base, inputs)
    bound = bounds(base, inputs, rounded)
    with attach(base, worn, slots):
        wanted = logits(base, inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = logits(base, inputs)
            backward(found.float().square().mean())
            with torch.no_grad():
                merged = logits(base, inputs)
    for number in range(6):
        assert apart(found[number], wanted[number]) < bound
        assert apart(merged[number], wanted[number]) < bound
    assert all(tensor.grad is not None for adapter in worn for tensor in adapter.edits.state().values())
