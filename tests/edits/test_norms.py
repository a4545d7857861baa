"""Edits of norms, from the norm's input."""

import copy

import pytest
import torch
from torch import nn

from lmtailor.edits.attach import attach
from tests.edits.worn import Regain, apart, base_of, logits, noise, worn
from tests.tiny import FAMILIES, tiny_inputs


@pytest.mark.parametrize("key", FAMILIES)
def test_a_norm_with_another_gain_and_shift(key: str) -> None:
    """LayerNorm, RMSNorm, Gemma's that adds one to its gain, and norms over the features of a head."""
    base = base_of(key)
    inputs = tiny_inputs(base)
    norms = [site for site in base.sites.values() if site.kind == "norm" and site.calls == 1]
    assert norms
    edits, model = [], copy.deepcopy(base.model)
    for number, site in enumerate(norms):
        gain_H, shift_H = 1 + noise(site.width, seed=number), noise(site.width, seed=-number - 1)
        own = model.get_submodule(site.module)
        has_shift = base.norm(site).shift_H is not None
        edits.append(Regain(site=site.name, gain_H=gain_H, shift_H=shift_H if has_shift else torch.zeros(site.width)))
        own.weight = nn.Parameter(gain_H - (1.0 if key.startswith("gemma") else 0.0))
        if has_shift:
            own.bias = nn.Parameter(shift_H)
    with attach(base, worn(*edits)):
        edited = logits(base, inputs)
    assert apart(edited, model(**inputs).logits) < 1e-5
    assert apart(edited, logits(base, inputs)) > 1e-2


def test_rows_with_different_norms() -> None:
    base = base_of("qwen3")
    adapters = [
        worn(*(Regain(site=s.name, gain_H=1 + noise(s.width, seed=seed), shift_H=noise(s.width, seed=seed + 9)) for s in norms))
        for seed, norms in enumerate([base.sites.select("block.*.norm1"), base.sites.select("block.*.attn.{q_norm,k_norm}")])
    ]
    inputs = tiny_inputs(base, rows=2)
    with torch.no_grad(), attach(base, adapters, [1, 0]):
        mixed = logits(base, inputs)
    for number, adapter in enumerate(reversed(adapters)):
        with torch.no_grad(), attach(base, adapter):
            assert apart(mixed[number], logits(base, inputs)[number]) < 1e-5
