"""Houlsby adapters by the paper's formula."""

from typing import Any

import numpy as np
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, SiteError
from lmtailor.core.rng import generator
from lmtailor.edits.edit import Context
from lmtailor.methods.houlsby import BottleneckEdit, Houlsby
from tests.edits.worn import base_of, noise, perturbed
from tests.methods.formula import ACTIVATIONS


def count(method: Houlsby, base: Base) -> int:
    """Two a block of every stack: 2 · H · M + M + H."""
    blocks, width = sum(len(stack.blocks) for stack in base.stacks), base.hidden_size
    return blocks * 2 * (2 * width * method.bottleneck + method.bottleneck + width)


def test_the_count_by_hand() -> None:
    assert Houlsby(bottleneck=5).edits(base_of("gpt2").sites, None).num_parameters == 8 * (2 * 48 * 5 + 5 + 48)
    assert Houlsby(bottleneck=5).edits(base_of("t5").sites, None).num_parameters == 16 * (2 * 48 * 5 + 5 + 48)
    assert [edit.site for edit in Houlsby().edits(base_of("gpt2").sites, None)][:2] == ["block.0.attn", "block.0.ffn"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_formula(activation: Any) -> None:
    """h + W_up σ(W_down h + b_down) + b_up, in NumPy."""
    method = Houlsby(bottleneck=5, activation=activation, at="block.0.attn")
    (edit,) = perturbed(method.edits(base_of("gpt2").sites, generator(0)), scale=0.5)
    assert isinstance(edit, BottleneckEdit)
    h_RTH = noise(2, 3, 48, scale=1.0)
    stacked = BottleneckEdit.stack([edit], dtype=torch.float32)
    found = stacked.hidden(None, h_RTH.view(1, 6, 48), None, None, Context(training=False)).view(2, 3, 48)
    down, down_bias, up, up_bias = (tensor.double().numpy() for tensor in edit.trained().values())
    h = h_RTH.double().numpy()
    wanted = h + ACTIVATIONS[activation](h @ down.T + down_bias) @ up.T + up_bias
    assert np.allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_the_start_is_cut_at_two_standard_deviations() -> None:
    (edit,) = Houlsby(bottleneck=48, std=0.02, at="block.0.attn").edits(base_of("gpt2").sites, generator(0))
    assert isinstance(edit, BottleneckEdit)
    for matrix in (edit.down_MH, edit.up_HM):
        assert 0.038 < float(matrix.abs().max()) <= 0.04
        assert 0.016 < float(matrix.std()) < 0.02  # 0.88 of the normal's
    assert not edit.down_bias_M.any()
    assert not edit.up_bias_H.any()


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="bottleneck is 0; an adapter needs at least 1 unit"):
        Houlsby(bottleneck=0)
    with pytest.raises(SiteError, match="only projection sites"):
        Houlsby(at="block.*.attn.q").edits(base_of("llama").sites, None)
