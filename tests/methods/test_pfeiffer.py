"""Pfeiffer adapters by the papers' formula; parity with AdapterHub is in tests/parity."""

import numpy as np
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.methods.pfeiffer import AfterAddEdit, Pfeiffer
from tests.edits.worn import Worn, base_of, inputs_of, logits, noise, outputs_of, perturbed
from tests.methods.formula import ACTIVATIONS, hidden, layer_norm, numbers
from tests.tiny import tiny_inputs


def count(method: Pfeiffer, base: Base) -> int:
    """One a block of every stack: 2 · H · M + M + H."""
    blocks, width = sum(len(stack.blocks) for stack in base.stacks), base.hidden_size
    inner = method.bottleneck or width // method.reduction
    return blocks * (2 * width * inner + inner + width)


def test_the_count_by_hand() -> None:
    assert Pfeiffer().edits(base_of("bert").sites, None).num_parameters == 4 * (2 * 48 * 3 + 3 + 48)
    assert Pfeiffer(bottleneck=7).edits(base_of("t5").sites, None).num_parameters == 8 * (2 * 48 * 7 + 7 + 48)
    assert Pfeiffer(reduction=1000).edits(base_of("gpt2").sites, None).num_parameters == 4 * (2 * 48 + 1 + 48)


@pytest.mark.parametrize("key", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_formula(key: str, activation: str) -> None:
    """h + U σ(D z + d) + u with z = LN(h + r) in post-norm models, h + r in others."""
    base = base_of(key)
    method = Pfeiffer(bottleneck=5, activation=activation, at="block.1.ffn")  # type: ignore[arg-type]
    edit = perturbed(method.edits(base.sites, generator(0)), scale=0.5)[0]
    assert isinstance(edit, AfterAddEdit)
    site = base.sites[edit.site]
    norm = None if site.next_norm is None else base.norm(base.sites[site.next_norm])
    assert (norm is None) == (key != "bert")
    h_RTH, residual_RTH = noise(2, 3, 48, scale=1.0), noise(2, 3, 48, seed=1, scale=1.0)
    h, residual, t = h_RTH.double().numpy(), residual_RTH.double().numpy(), numbers(edit)
    z = h + residual
    if norm is not None:
        assert norm.shift_H is not None
        z = layer_norm(z, norm.gain_H.double().numpy(), norm.shift_H.double().numpy(), norm.eps)
    wanted = h + ACTIVATIONS[activation](z @ t["down_MH"].T + t["down_bias_M"]) @ t["up_HM"].T + t["up_bias_H"]
    assert np.allclose(hidden(edit, h_RTH, residual=residual_RTH, norm=norm), wanted, rtol=1e-5, atol=1e-5)


def test_the_network_reads_what_the_plain_model_would_pass_on() -> None:
    """z is the input of the next block: in BERT behind the norm, in GPT-2 the plain sum."""
    for key in ("bert", "gpt2"):
        base = base_of(key)
        edit = Pfeiffer(bottleneck=4, at="block.1.ffn").edits(base.sites, generator(0))
        state = {name: torch.zeros_like(value) for name, value in edit.state().items()}
        down = noise(4, 48)
        silent = edit.with_state(state | {"block.1.ffn.down_MH": down})
        seen: list[torch.Tensor] = []

        def spy(read: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(read)
            return torch.zeros_like(read)

        with pytest.MonkeyPatch.context() as patch, torch.no_grad(), attach(base, Worn(silent)):
            patch.setattr(AfterAddEdit, "network", lambda self, z: spy(z))
            with outputs_of(base.module(base.stacks[0].blocks[1])) as blocks, inputs_of(base.module(base.stacks[0].blocks[2])):
                logits(base, tiny_inputs(base))
        assert torch.allclose(seen[0].flatten(), blocks[0].flatten(), atol=1e-5)


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="bottleneck is 0; an adapter needs at least 1 unit"):
        Pfeiffer(bottleneck=0)
    with pytest.raises(InputError, match="reduction is 0; the width is divided by it"):
        Pfeiffer(reduction=0)
