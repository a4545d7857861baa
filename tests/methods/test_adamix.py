"""AdaMix: what a pass of training computes with the copies that it drew, by the inner methods' formulas."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import derive, generator
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.edits.attach import attach
from lmtailor.edits.edit import Context
from lmtailor.edits.edits import Edits
from lmtailor.methods.adamix import AdaMix, MixedBottleneck, MixedLoRA
from lmtailor.methods.houlsby import Houlsby
from lmtailor.methods.lora import LoRA
from lmtailor.methods.pfeiffer import Pfeiffer
from tests.conformance.table import count_of
from tests.edits.worn import Worn, all_apart, apart, backward, base_of, logits, noise, perturbed
from tests.methods.formula import ACTIVATIONS, numbers
from tests.tiny import tiny_base, tiny_inputs


def count(method: AdaMix, base: Base) -> int:
    """The inner method's, once for each copy of what is not shared."""
    inner = method.inner
    if isinstance(inner, LoRA):
        shapes = [base.linear(site).weight_OI.shape for site in base.sites.select(inner.at, "projection")]
        down, up = (inner.rank * sum(shape[axis] for shape in shapes) for axis in (1, 0))
    else:
        assert isinstance(inner, Pfeiffer | Houlsby)
        assert inner.bottleneck is not None
        sites, width = len(base.sites.select(inner.at, "sublayer")), base.hidden_size
        down, up = sites * inner.bottleneck * (width + 1), sites * width * (inner.bottleneck + 1)
    times = {side: 1 if method.share == side else method.copies for side in ("down", "up")}
    return times["down"] * down + times["up"] * up


def test_the_count_by_hand() -> None:
    base = base_of("bert")
    whole, one = AdaMix(inner=Pfeiffer(bottleneck=4)), Pfeiffer(bottleneck=4)
    assert whole.edits(base.sites, None).num_parameters == 4 * count_of("pfeiffer")(one, base)
    lora = AdaMix(inner=LoRA(rank=2, at="block.0.attn.q"), copies=3, share="up")
    assert lora.edits(base.sites, None).num_parameters == 3 * 2 * 48 + 48 * 2
    assert count(lora, base) == 3 * 2 * 48 + 48 * 2


def pair(draw: int, site: str, downs: int, ups: int) -> tuple[int, int]:
    """Which copies a draw takes at a site."""
    number = derive(draw, site)
    return number % downs, number // downs % ups


@pytest.mark.parametrize("share", ["none", "down", "up"])
@pytest.mark.parametrize("draw", [None, 3, 4])
def test_the_formula_of_lora(share: Any, draw: int | None) -> None:
    """y + s B_j A_i x, or with the averages."""
    base = base_of("llama")
    method = AdaMix(inner=LoRA(rank=3, alpha=6.0, at="block.0.attn.q"), copies=4, share=share)
    edit = perturbed(method.edits(base.sites, generator(0)), scale=0.5)[0]
    assert isinstance(edit, MixedLoRA)
    t, x_RTI, y_RTO = numbers(edit), noise(1, 5, 48, scale=1.0), noise(1, 5, 48, seed=1, scale=1.0)
    a, b = t["a_CKI"], t["b_COK"]
    assert (len(a), len(b)) == (1 if share == "down" else 4, 1 if share == "up" else 4)
    if draw is None:
        chosen = a.mean(0), b.mean(0)
    else:
        i, j = pair(draw, edit.site, len(a), len(b))
        chosen = a[i], b[j]
    wanted = y_RTO.double().numpy() + 2.0 * x_RTI.double().numpy() @ chosen[0].T @ chosen[1].T
    stacked = MixedLoRA.stack([edit], dtype=torch.float32)
    lin = base.linear(base.sites[edit.site])
    found = stacked.output(x_RTI, y_RTO, lin, Context(training=draw is not None, draw=draw))
    assert np.allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("draw", [None, 3, 4])
def test_the_formula_of_adapters(draw: int | None) -> None:
    """h + U_j σ(D_i h + d_i) + u_j, or with the averages."""
    method = AdaMix(inner=Houlsby(bottleneck=5, activation="relu", at="block.1.attn"), copies=3)
    edit = perturbed(method.edits(base_of("gpt2").sites, generator(0)), scale=0.5)[0]
    assert isinstance(edit, MixedBottleneck)
    t, h_RTH = numbers(edit), noise(1, 6, 48, scale=1.0)
    h, (i, j) = h_RTH.double().numpy(), pair(draw or 0, edit.site, 3, 3)
    down, up = (t[n].mean(0) if draw is None else t[n][i] for n in ("down_CMH", "down_bias_CM")), ("up_CHM", "up_bias_CH")
    d, d_bias = down
    u, u_bias = (t[n].mean(0) if draw is None else t[n][j] for n in up)
    wanted = h + ACTIVATIONS["relu"](h @ d.T + d_bias) @ u.T + u_bias
    stacked = MixedBottleneck.stack([edit], dtype=torch.float32)
    found = stacked.hidden(h_RTH, h_RTH, h_RTH, None, Context(training=draw is not None, draw=draw))
    assert np.allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_draws_are_even_and_apart_from_each_other() -> None:
    """All pairs come, and two sites of one pass choose apart."""
    pairs = Counter(pair(draw, "block.0.ffn", 4, 4) for draw in range(3200))
    assert len(pairs) == 16
    assert all(140 < times < 260 for times in pairs.values())
    both = Counter((pair(draw, "block.0.ffn", 4, 4), pair(draw, "block.1.ffn", 4, 4)) for draw in range(3200))
    assert len(both) == 256


def drawn(base: Base, edits: Edits, draws: list[int | None]) -> list[Tensor]:
    """Logits of passes with these draws, with their graphs."""
    out = []
    with attach(base, Worn(edits)) as attached:
        for draw in draws:
            attached.engine.draw = draw
            out.append(logits(base, tiny_inputs(base)))
    return out


def test_passes_differ_by_their_draw_alone() -> None:
    base = base_of("bert")
    edits = perturbed(AdaMix(inner=Pfeiffer(bottleneck=4)).edits(base.sites, generator(0)))
    with torch.no_grad():
        first, second, again, average = drawn(base, edits, [1, 2, 1, None])
    assert torch.equal(first, again)
    assert apart(first, second) > 1e-3
    assert apart(first, average) > 1e-3


@pytest.mark.parametrize("inner", [Pfeiffer(bottleneck=4), LoRA(rank=2)], ids=["pfeiffer", "lora"])
def test_a_checkpointed_block_draws_again_what_it_drew(inner: Pfeiffer | LoRA) -> None:
    """Two passes, then one backward: each block is run again with its own pass's copies."""
    found = []
    for checkpointing in (False, True):
        base = tiny_base("llama")
        base.model.train()
        base.model.config.use_cache = False
        if checkpointing:
            base.model.activation_checkpointing_enable()
        edits = perturbed(AdaMix(inner=inner).edits(base.sites, generator(0)), grad=True)
        with attach(base, Worn(edits)) as attached:
            loss = torch.zeros(())
            for draw in (1, 2):
                attached.engine.draw = draw
                loss = loss + draw * logits(base, tiny_inputs(base)).square().mean()
            attached.engine.draw = None
            backward(loss)
        found.append([tensor.grad for tensor in edits.state().values()])
    assert all_apart(found[1], found[0]) < 1e-4  # type: ignore[arg-type]


def test_the_average_is_the_plain_inner_method() -> None:
    base = base_of("t5")
    method = AdaMix(inner=LoRA(rank=2), share="up")
    edits = perturbed(method.edits(base.sites, generator(0)))
    kept, finished = method.finished(edits)
    assert kept == LoRA(rank=2)
    assert finished.state().keys() == kept.edits(base.sites, None).state().keys()
    with torch.no_grad():
        (average,) = drawn(base, edits, [None])
        (plain,) = drawn(base, finished, [None])
    assert apart(plain, average) < 1e-6


def test_copies_start_apart() -> None:
    (edit, *_) = AdaMix(inner=Pfeiffer(bottleneck=4), copies=3).edits(base_of("bert").sites, generator(0))
    assert isinstance(edit, MixedBottleneck)
    assert len({float(copy.sum()) for copy in edit.down_CMH}) == 3


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="copies is 1; a mixture has at least 2"):
        AdaMix(copies=1)
    with pytest.raises(InputError, match="inner is AdaMix; AdaMix mixes Pfeiffer, Houlsby or LoRA"):
        AdaMix(inner=AdaMix())
    with pytest.raises(UnsupportedError, match="AdaMix mixes plain LoRA"):
        AdaMix(inner=LoRA(dora=True))
    method = replace(AdaMix(), inner=LoRA(rank=3))
    assert from_mapping(AdaMix, to_mapping(method)) == method
