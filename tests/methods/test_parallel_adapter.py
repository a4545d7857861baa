"""Parallel adapters by the paper's formula; parity with AdapterHub is in tests/parity."""

from typing import Any

import numpy as np
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.methods.parallel_adapter import ParallelAdapter, ParallelEdit
from tests.edits.worn import Worn, base_of, inputs_of, logits, noise, perturbed
from tests.methods.formula import ACTIVATIONS, hidden, numbers
from tests.tiny import tiny_inputs


def count(method: ParallelAdapter, base: Base) -> int:
    """One a block of every stack: 2 · H · M + M + H, and the learned scale."""
    blocks, width = sum(len(stack.blocks) for stack in base.stacks), base.hidden_size
    inner = method.bottleneck or width // method.reduction
    return blocks * (2 * width * inner + inner + width + (method.scale == "learned"))


def test_the_count_by_hand() -> None:
    assert ParallelAdapter().edits(base_of("bert").sites, None).num_parameters == 4 * (2 * 48 * 24 + 24 + 48)
    learned = ParallelAdapter(bottleneck=5, scale="learned")
    assert learned.edits(base_of("llama").sites, None).num_parameters == 4 * (2 * 48 * 5 + 5 + 48 + 1)


@pytest.mark.parametrize("scale", [4.0, 0.5, "learned"])
@pytest.mark.parametrize("reads", ["input", "residual"])
def test_the_formula(scale: Any, reads: Any) -> None:
    """h + s (U σ(D x + d) + u)."""
    method = ParallelAdapter(bottleneck=5, scale=scale, reads=reads, at="block.0.ffn")
    edit = perturbed(method.edits(base_of("gpt2").sites, generator(0)), scale=0.5)[0]
    assert isinstance(edit, ParallelEdit)
    h_RTH, x_RTH, residual_RTH = (noise(2, 3, 48, seed=seed, scale=1.0) for seed in range(3))
    read, t = (x_RTH if reads == "input" else residual_RTH).double().numpy(), numbers(edit)
    s = t["learned_1"] if scale == "learned" else scale
    network = ACTIVATIONS["relu"](read @ t["down_MH"].T + t["down_bias_M"]) @ t["up_HM"].T + t["up_bias_H"]
    found = hidden(edit, h_RTH, x_RTH, residual_RTH)
    assert np.allclose(found, h_RTH.double().numpy() + s * network, rtol=1e-5, atol=1e-5)


def test_a_learned_scale_starts_at_one() -> None:
    (edit, *_) = ParallelAdapter(scale="learned").edits(base_of("bert").sites, generator(0))
    assert isinstance(edit, ParallelEdit)
    assert edit.learned_1 is not None
    assert edit.learned_1.tolist() == [1.0]
    assert edit.down_MH.any()
    assert not edit.up_HM.any()


def test_in_pre_norm_models_the_input_is_behind_the_norm() -> None:
    base = base_of("gpt2")
    seen = []
    method = ParallelAdapter(bottleneck=4, at="block.1.ffn")
    edits = perturbed(method.edits(base.sites, generator(0)))

    def spy(read: torch.Tensor) -> torch.Tensor:
        seen.append(read)
        return torch.zeros_like(read)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), attach(base, Worn(edits)):
        patch.setattr(ParallelEdit, "network", lambda self, x: spy(x))
        with inputs_of(base.module(base.sites["block.1.ffn.up"].module)) as read:
            logits(base, tiny_inputs(base))
    assert torch.allclose(seen[0].flatten(), read[0].flatten(), atol=1e-6)


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="scale is inf; it must be a finite number or 'learned'"):
        ParallelAdapter(scale=float("inf"))
    with pytest.raises(InputError, match="reduction is 0"):
        ParallelAdapter(reduction=0)
