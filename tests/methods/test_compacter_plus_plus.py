"""Compacter++: Compacter's network at other places."""

import numpy as np

from lmtailor.base.base import Base
from lmtailor.core.rng import generator
from lmtailor.methods.compacter_plus_plus import CompacterPlusPlus, PHMAfterAddEdit
from tests.edits.worn import base_of, noise, perturbed
from tests.methods.formula import ACTIVATIONS, hidden, layer_norm, numbers
from tests.methods.test_compacter import kronecker, sum_of


def count(method: CompacterPlusPlus, base: Base) -> int:
    """One site a block of every stack."""
    return sum_of(method, base, sum(len(stack.blocks) for stack in base.stacks))


def test_it_stands_after_the_feed_forward_network_alone() -> None:
    edits = CompacterPlusPlus(reduction=4).edits(base_of("bart").sites, None)
    assert {edit.site.rsplit(".", 1)[1] for edit in edits} == {"ffn"}
    assert edits.num_parameters == 64 + 8 * (2 * (48 + 12) + 12 + 48)


def test_it_may_read_behind_the_norm() -> None:
    base = base_of("bert")
    edit = perturbed(CompacterPlusPlus(bottleneck=8, reads="stream").edits(base.sites, generator(0)), scale=0.5)[0]
    assert isinstance(edit, PHMAfterAddEdit)
    norm = base.norm(base.sites[base.sites[edit.site].next_norm or ""])
    assert norm.shift_H is not None
    h_RTH, residual_RTH, t = noise(2, 3, 48, scale=1.0), noise(2, 3, 48, seed=1, scale=1.0), numbers(edit)
    h, r = h_RTH.double().numpy(), residual_RTH.double().numpy()
    z = layer_norm(h + r, norm.gain_H.double().numpy(), norm.shift_H.double().numpy(), norm.eps)
    down = kronecker(t["rule_NNN"], t["down_left_NIK"], t["down_right_NKO"])
    up = kronecker(t["rule_NNN"], t["up_left_NIK"], t["up_right_NKO"])
    wanted = h + ACTIVATIONS["gelu"](z @ down + t["down_bias_M"]) @ up + t["up_bias_H"]
    assert np.allclose(hidden(edit, h_RTH, residual=residual_RTH, norm=norm), wanted, rtol=1e-5, atol=1e-4)
