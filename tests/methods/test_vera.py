"""VeRA against PEFT's."""

from typing import Any

import peft
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.methods.vera import VeRA, VeRAEdit
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.methods.theirs import wrapped
from tests.tiny import tiny_base, tiny_inputs


def count(method: VeRA, base: Base) -> int:
    """Σ O + K, from the weights themselves."""
    outputs = [base.linear(site).weight_OI.shape[0] for site in base.sites.select(method.at, "projection")]
    return sum(out + method.rank for out in outputs)


def test_the_count_by_hand() -> None:
    """Four blocks, q and v; in the grouped model v has two heads of eight features."""
    assert VeRA(rank=7).edits(base_of("bert").sites, None).num_parameters == 4 * (2 * 48 + 2 * 7)
    assert VeRA(rank=7).edits(base_of("llama").sites, None).num_parameters == 4 * (48 + 16 + 2 * 7)


PARITY: list[tuple[str, VeRA, dict[str, Any]]] = [
    ("llama", VeRA(rank=6, projection_seed=3), {"target_modules": ["q_proj", "v_proj"], "projection_prng_key": 3}),
    ("llama", VeRA(rank=300, at="block.*.ffn.{up,down}"), {"target_modules": ["up_proj", "down_proj"]}),
    ("bert", VeRA(rank=6), {"target_modules": ["query", "value"]}),
    ("gpt2", VeRA(rank=6, at="block.*.attn.qkv"), {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    ("t5", VeRA(rank=6, at="block.*.{attn,cross}.{q,v}"), {"target_modules": ["q", "v"]}),
]


@pytest.mark.parametrize(("key", "method", "settings"), PARITY, ids=lambda value: value if isinstance(value, str) else "")
def test_peft_computes_the_same(key: str, method: VeRA, settings: dict[str, Any]) -> None:
    """With the projections that PEFT draws itself, from the same seed."""
    base = base_of(key)
    edits = perturbed(method.edits(base.sites, generator(0)))
    model = wrapped(tiny_base(key).model, peft.VeraConfig(r=method.rank, **settings))
    state: dict[str, torch.Tensor] = {}
    for edit in edits:
        assert isinstance(edit, VeRAEdit)
        path = f"base_model.model.{base.sites[edit.site].module}"
        state |= {f"{path}.vera_lambda_b.default": edit.b_O, f"{path}.vera_lambda_d.default": edit.d_K}
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert not [name for name in missing.missing_keys if "lambda" in name]
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)
    assert apart(found, model(**inputs).logits) < 1e-5
    assert apart(found, logits(base, inputs)) > 1e-3


def test_the_projections_are_one_pair_and_a_function_of_their_own_seed() -> None:
    base = base_of("llama")
    first, second = (VeRA(rank=4).edits(base.sites, generator(seed)) for seed in (0, 1))
    assert list(first.fixed()) == ["vera.a_KJ", "vera.b_PK"]
    assert len({id(edit.a_KJ) for edit in first if isinstance(edit, VeRAEdit)}) == 1
    assert all(torch.equal(value, second.fixed()[name]) for name, value in first.fixed().items())
    other = VeRA(rank=4, projection_seed=1).edits(base.sites, generator(0))
    assert not torch.equal(other.fixed()["vera.a_KJ"], first.fixed()["vera.a_KJ"])
    assert all(not tensor.requires_grad for tensor in first.fixed().values())


def test_the_start() -> None:
    """d is the paper's 0.1 and b zero; the projections fill their bounds."""
    edit = VeRA(rank=8).edits(base_of("bert").sites, generator(0))[0]
    assert isinstance(edit, VeRAEdit)
    assert bool((edit.d_K == 0.1).all())
    assert not edit.b_O.any()
    for tensor, fan in ((edit.a_KJ, 48), (edit.b_PK, 8)):
        assert 0.97 < float(tensor.abs().max()) / (6 / fan) ** 0.5 <= 1.0


def test_dropout_acts_while_training() -> None:
    base = tiny_base("llama")
    inputs = tiny_inputs(base)
    edits = perturbed(VeRA(rank=4, dropout=0.5).edits(base.sites, generator(0)), scale=1.0)
    with torch.no_grad(), attach(base, Worn(edits)):
        still = logits(base, inputs)
        base.model.train()
        assert apart(logits(base, inputs), still) > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0; VeRA needs at least 1"),
        ({"dropout": 1.0}, r"dropout is 1\.0; it must be at least 0"),
        ({"projection_seed": -1}, "projection_seed is -1"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VeRA(**settings)
