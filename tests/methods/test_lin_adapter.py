"""Lin's adapters by the paper's formula."""

import numpy as np
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, SiteError
from lmtailor.core.rng import generator
from lmtailor.methods.lin_adapter import LinAdapter, NormedEdit
from tests.edits.worn import base_of, noise, perturbed
from tests.methods.formula import hidden, layer_norm, numbers


def count(method: LinAdapter, base: Base) -> int:
    """2 H + 2 H M a block, and M + H for biases."""
    blocks, width, inner = sum(len(stack.blocks) for stack in base.stacks), base.hidden_size, method.bottleneck
    return blocks * (2 * width + 2 * width * inner + method.bias * (inner + width))


def test_the_count_by_hand() -> None:
    assert LinAdapter(bottleneck=5).edits(base_of("gpt2").sites, None).num_parameters == 4 * (2 * 48 + 2 * 48 * 5)
    assert LinAdapter(bottleneck=5, bias=True).edits(base_of("t5").sites, None).num_parameters == 8 * (2 * 48 + 2 * 48 * 5 + 53)


@pytest.mark.parametrize("bias", [False, True])
def test_the_formula(bias: bool) -> None:
    """h + U relu(D LN(h) + d) + u, in NumPy."""
    edit = perturbed(LinAdapter(bottleneck=5, bias=bias).edits(base_of("gpt2").sites, generator(0)), scale=0.5)[0]
    assert isinstance(edit, NormedEdit)
    t, h_RTH = numbers(edit), noise(2, 3, 48, scale=2.0)
    h = h_RTH.double().numpy()
    inner = layer_norm(h, t["gain_H"], t["shift_H"], 1e-5) @ t["down_MH"].T + (t["down_bias_M"] if bias else 0)
    wanted = h + np.maximum(inner, 0) @ t["up_HM"].T + (t["up_bias_H"] if bias else 0)
    assert np.allclose(hidden(edit, h_RTH), wanted, rtol=1e-5, atol=1e-5)


def test_the_norm_starts_as_an_identity_on_normed_states() -> None:
    (edit, *_) = LinAdapter().edits(base_of("bert").sites, generator(0))
    assert isinstance(edit, NormedEdit)
    assert torch.equal(edit.gain_H, torch.ones(48))
    assert not edit.shift_H.any()


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="bottleneck is 0; an adapter needs at least 1 unit"):
        LinAdapter(bottleneck=0)
    with pytest.raises(SiteError, match="only sublayer sites"):
        LinAdapter(at="block.*.ffn").edits(base_of("llama").sites, None)
