"""OFT against PEFT's, and against the equations where PEFT has another sign or no such place."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import peft
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.methods.oft import OFT, OFTEdit
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.methods.theirs import wrapped
from tests.tiny import tiny_base, tiny_inputs


def count(method: OFT, base: Base) -> int:
    """Σ I(S - 1)/2, or S(S - 1)/2 where blocks share one Q."""
    total = 0
    for site in base.sites.select(method.at, "projection"):
        inputs = base.linear(site).weight_OI.shape[1]
        size = method.block_size or inputs // (method.blocks or 1)
        total += (size if method.shared else inputs) * (size - 1) // 2
    return total


def test_the_count_by_hand() -> None:
    """Four blocks of four matrices with 48 inputs: 6 rotations of 8 features, each of 28 numbers."""
    assert OFT(block_size=8).edits(base_of("bert").sites, None).num_parameters == 4 * 4 * 6 * 28
    assert OFT(block_size=8, shared=True).edits(base_of("bert").sites, None).num_parameters == 4 * 4 * 28
    halves = OFT(block_size=None, blocks=2, at="block.*.ffn.down").edits(base_of("bert").sites, None)
    assert halves.num_parameters == 4 * 2 * 32 * 31 // 2


def adapted(edits: Edits) -> Iterator[OFTEdit]:
    for edit in edits:
        assert isinstance(edit, OFTEdit)
        yield edit


SERIES: dict[str, Any] = {"use_cayley_neumann": True}
INVERSE: dict[str, Any] = {"use_cayley_neumann": False}
PARITY: list[tuple[str, OFT, dict[str, Any]]] = [
    ("llama", OFT(block_size=8, cayley="neumann"), {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], **SERIES}),
    ("llama", OFT(block_size=8, at="block.*.attn.{q,v}"), {"target_modules": ["q_proj", "v_proj"], **INVERSE}),
    (
        "llama",
        OFT(block_size=8, shared=True, at="block.*.ffn.{up,down}"),
        {"target_modules": ["up_proj", "down_proj"], "block_share": True, **INVERSE},
    ),
    (
        "bert",
        OFT(block_size=16, cayley="neumann", order=6, at="block.*.attn.{q,v}"),
        {"target_modules": ["query", "value"], "num_cayley_neumann_terms": 7, **SERIES},
    ),
    (
        "bert",
        OFT(block_size=16, cayley="neumann", order=3, at="block.*.attn.{q,v}"),
        {"target_modules": ["query", "value"], "num_cayley_neumann_terms": 4, **SERIES},
    ),
    ("t5", OFT(block_size=12, at="block.*.{attn,cross}.{q,v}"), {"target_modules": ["q", "v"], **INVERSE}),
]


@pytest.mark.parametrize(("key", "method", "settings"), PARITY, ids=lambda value: value if isinstance(value, str) else "")
def test_peft_computes_the_same(key: str, method: OFT, settings: dict[str, Any]) -> None:
    """PEFT's exact transform is (I - Q)(I + Q)⁻¹, that of -Q."""
    base = base_of(key)
    edits = perturbed(method.edits(base.sites, generator(0)))
    config = peft.OFTConfig(oft_block_size=method.block_size or 0, **settings)
    model = wrapped(tiny_base(key).model, config)
    sign = -1 if method.cayley == "exact" else 1
    state = {
        f"base_model.model.{base.sites[edit.site].module}.oft_R.default.weight": sign * edit.skew_BE for edit in adapted(edits)
    }
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert not [name for name in missing.missing_keys if "oft" in name]
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)
    assert apart(found, model(**inputs).logits) < 1e-5
    assert apart(found, logits(base, inputs)) > 1e-2


def test_the_papers_equation() -> None:
    """x R with R = (I + Q)(I - Q)⁻¹ in NumPy; R is orthogonal, and lengths of inputs and weights stay."""
    base = base_of("bert")
    (edit,) = adapted(perturbed(OFT(block_size=8, at="block.0.attn.q").edits(base.sites, generator(0)), scale=0.5))
    x = torch.randn(1, 5, 48, generator=generator(1))
    with torch.no_grad():
        found = edit.with_tensors({"skew_BE": edit.skew_BE[None]})._turned(x)[0].double().numpy()
    wanted = np.empty((5, 48))
    for block in range(6):
        q = np.zeros((8, 8))
        q[np.triu_indices(8, 1)] = edit.skew_BE[block].double().numpy()
        q -= q.T
        rotation = (np.eye(8) + q) @ np.linalg.inv(np.eye(8) - q)
        assert np.allclose(rotation @ rotation.T, np.eye(8), atol=1e-12)
        wanted[:, 8 * block : 8 * block + 8] = x[0, :, 8 * block : 8 * block + 8].double().numpy() @ rotation
    assert np.abs(found - wanted).max() / np.abs(wanted).max() < 1e-5
    weight = base.linear(base.sites["block.0.attn.q"]).weight_OI.detach()
    folded, _ = edit.fold(weight, None)
    assert torch.allclose(folded @ folded.T, weight @ weight.T, rtol=1e-4, atol=1e-5)  # angles between neurons
    assert apart(folded, weight) > 0.1


def test_a_part_of_a_fused_projection_turns_alone() -> None:
    """In GPT-2, q sees turned inputs; k and v do not."""
    base = base_of("gpt2")
    edits = perturbed(OFT(block_size=8, at="block.0.attn.q").edits(base.sites, generator(0)))
    whole = base.module(base.sites["block.0.attn.qkv"].module)
    x = torch.randn(2, 5, 48, generator=generator(1))
    with torch.no_grad():
        plain = whole(x)
        with attach(base, Worn(edits)):
            turned = whole(x)
    assert apart(turned[..., :48], plain[..., :48]) > 1e-2
    assert torch.equal(turned[..., 48:], plain[..., 48:])


def test_rotations_are_made_once_while_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """And anew when a tensor was changed in place."""
    base = base_of("llama")
    made = []
    real = OFTEdit._rotations

    def counted(edit: OFTEdit, skew: torch.Tensor) -> torch.Tensor:
        made.append(edit.site)
        return real(edit, skew)

    monkeypatch.setattr(OFTEdit, "_rotations", counted)
    edits = perturbed(OFT(block_size=8, at="block.*.attn.q").edits(base.sites, generator(0)))
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        first = logits(base, inputs)
        logits(base, inputs)
        assert len(made) == 4
        for tensor in edits.state().values():
            tensor.mul_(2)
        assert apart(logits(base, inputs), first) > 1e-2
        assert len(made) == 8


def test_a_bound_holds_after_each_step_as_pefts() -> None:
    base = base_of("llama")
    method = OFT(block_size=8, at="block.0.attn.q", cayley="neumann", epsilon=0.3)
    edits = perturbed(method.edits(base.sites, generator(0)), scale=0.05)
    (edit,) = adapted(edits)
    edit.skew_BE[0] *= 0.01  # within the bound
    config = peft.OFTConfig(oft_block_size=8, target_modules=r".*0\.self_attn\.q_proj", coft=True, eps=0.3)
    model = wrapped(tiny_base("llama").model, config)
    name = f"base_model.model.{base.sites['block.0.attn.q'].module}.oft_R.default.weight"
    model.load_state_dict({name: edit.skew_BE}, strict=False)
    model(**tiny_inputs(base))  # PEFT bounds when it computes
    before = edit.skew_BE.clone()
    method.stepped(edits, {}, 0, 10)
    assert apart(edit.skew_BE, dict(model.named_parameters())[name]) < 1e-5
    assert torch.equal(edit.skew_BE[0], before[0])
    norms = (2 * edit.skew_BE.square().sum(1)).sqrt()
    assert bool((norms[1:] - 0.3 / 6**0.5 < 1e-6).all())
    again = edit.skew_BE.clone()
    OFT(block_size=8, at="block.0.attn.q").stepped(edits, {}, 0, 10)
    assert torch.equal(edit.skew_BE, again)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_size": 1}, "block_size is 1; a rotation needs at least 2"),
        ({"blocks": 4}, "Give block_size or blocks"),
        ({"block_size": None}, "Give block_size or blocks"),
        ({"block_size": None, "blocks": 0}, "blocks is 0"),
        ({"order": 2}, "order is 2"),
        ({"epsilon": 0.0}, r"epsilon is 0\.0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OFT(**settings)


@pytest.mark.parametrize("settings", [{"block_size": 32}, {"block_size": None, "blocks": 5}, {"block_size": None, "blocks": 48}])
def test_blocks_must_divide_the_inputs(settings: dict[str, Any]) -> None:
    """PEFT takes another size and warns."""
    with pytest.raises(InputError, match=r"block\.0\.attn\.q has 48 inputs, which \d+ does not divide into blocks"):
        OFT(**settings).edits(base_of("bert").sites, None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wrapped(tiny_base("bert").model, peft.OFTConfig(oft_block_size=32, target_modules=["query"]))
    assert any("Adjusted `oft_block_size` to (24)" in str(one.message) for one in caught)
