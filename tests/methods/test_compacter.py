"""Compacter by the paper's formula; parity with AdapterHub is in tests/parity."""

import math
from typing import Any

import numpy as np
import pytest

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.methods.compacter import Compacter, PHMEdit
from lmtailor.methods.compacter_plus_plus import CompacterPlusPlus
from tests.edits.worn import base_of, noise, perturbed
from tests.methods.formula import ACTIVATIONS, hidden, numbers


def sum_of(method: Compacter | CompacterPlusPlus, base: Base, sites: int) -> int:
    """N³ + sites · (2 K (H + M) + M + H)."""
    width = base.hidden_size
    inner = method.bottleneck or math.ceil(width // method.reduction / method.terms) * method.terms
    return method.terms**3 + sites * (2 * method.rank * (width + inner) + inner + width)


def count(method: Compacter, base: Base) -> int:
    """Two sites a block of every stack."""
    return sum_of(method, base, 2 * sum(len(stack.blocks) for stack in base.stacks))


def test_the_count_by_hand() -> None:
    """The rule counts once, however many sites share it."""
    edits = Compacter(bottleneck=12).edits(base_of("gpt2").sites, None)
    assert edits.num_parameters == 64 + 8 * (2 * (48 + 12) + 12 + 48)
    assert [name for name in edits.state() if "rule" in name] == ["phm.rule_NNN"]


@pytest.mark.parametrize(("reduction", "inner"), [(32, 4), (4, 12), (5, 12), (3, 16)])
def test_a_width_that_does_not_divide_is_rounded_up(reduction: int, inner: int) -> None:
    (edit, *_) = Compacter(reduction=reduction).edits(base_of("gpt2").sites, None)
    assert isinstance(edit, PHMEdit)
    assert edit.down_bias_M.shape == (inner,)


def kronecker(rule: Any, left: Any, right: Any) -> Any:
    """Σ A_i ⊗ (s_i t_i), (in, out)."""
    return sum(np.kron(rule[i], left[i] @ right[i]) for i in range(len(rule)))


@pytest.mark.parametrize(("terms", "rank"), [(4, 1), (2, 3), (1, 1)])
def test_the_formula(terms: int, rank: int) -> None:
    method = Compacter(bottleneck=12, terms=terms, rank=rank, at="block.0.attn")
    edit = perturbed(method.edits(base_of("gpt2").sites, generator(0)), scale=0.5)[0]
    assert isinstance(edit, PHMEdit)
    h_RTH, t = noise(2, 3, 48, scale=1.0), numbers(edit)
    h = h_RTH.double().numpy()
    down = kronecker(t["rule_NNN"], t["down_left_NIK"], t["down_right_NKO"])
    up = kronecker(t["rule_NNN"], t["up_left_NIK"], t["up_right_NKO"])
    assert down.shape == (48, 12)
    wanted = h + ACTIVATIONS["gelu"](h @ down + t["down_bias_M"]) @ up + t["up_bias_H"]
    assert np.allclose(hidden(edit, h_RTH), wanted, rtol=1e-5, atol=1e-4)


def test_the_rule_is_one_tensor() -> None:
    edits = Compacter(reduction=4).edits(base_of("t5").sites, generator(0))
    rules = {id(edit.rule_NNN) for edit in edits if isinstance(edit, PHMEdit)}
    assert len(edits) == 16
    assert len(rules) == 1


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="bottleneck is 0"):
        Compacter(bottleneck=0)
    with pytest.raises(InputError, match="terms is 0 and rank is 1"):
        Compacter(terms=0)
    with pytest.raises(
        InputError, match=r"A bottleneck of 6 units at block\.0\.attn, of 48 features, cannot be cut into 4 parts"
    ):
        Compacter(bottleneck=6).edits(base_of("bert").sites, None)
    with pytest.raises(InputError, match="terms is 4 and rank is 0"):
        CompacterPlusPlus(rank=0)
