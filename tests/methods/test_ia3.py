"""IA3 against PEFT's, and against the paper's equations where PEFT has no such place."""

import copy
from typing import Any

import peft
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.methods.ia3 import IA3, InputScale, OutputScale
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.methods.theirs import wrapped
from tests.tiny import FAMILIES, tiny_base, tiny_inputs


def count(method: IA3, base: Base) -> int:
    """Σ O + Σ I, from the weights themselves."""
    outputs = [base.linear(site).weight_OI.shape[0] for site in base.sites.select(method.at, "projection")] if method.at else []
    inputs = (
        [base.linear(site).weight_OI.shape[1] for site in base.sites.select(method.at_inputs, "projection")]
        if method.at_inputs
        else []
    )
    return sum(outputs) + sum(inputs)


def test_the_count_by_hand() -> None:
    """Four blocks: k and v of 48 and 64 inner features; two key heads of eight features where grouped; a second attention."""
    assert IA3().edits(base_of("bert").sites, None).num_parameters == 4 * (48 + 48 + 64)
    assert IA3().edits(base_of("llama").sites, None).num_parameters == 4 * (16 + 16 + 64)
    assert IA3().edits(base_of("bart").sites, None).num_parameters == 4 * (48 + 48 + 64) + 4 * (4 * 48 + 72)


PARITY: list[tuple[str, IA3, dict[str, Any]]] = [
    ("llama", IA3(), {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    ("t5", IA3(), {"target_modules": ["k", "v", "wo"], "feedforward_modules": ["wo"]}),
    ("bart", IA3(), {"target_modules": ["k_proj", "v_proj", "fc2"], "feedforward_modules": ["fc2"]}),
    (
        "bert",
        IA3(),
        {"target_modules": r".*\.(key|value|\d\.output\.dense)", "feedforward_modules": r".*\.\d\.output\.dense"},
    ),
    (
        "gpt2",
        IA3(at="block.*.attn.qkv"),
        {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"], "fan_in_fan_out": True},
    ),
]


@pytest.mark.parametrize(("key", "method", "settings"), PARITY, ids=lambda value: value if isinstance(value, str) else "")
def test_peft_computes_the_same(key: str, method: IA3, settings: dict[str, Any]) -> None:
    base = base_of(key)
    edits = perturbed(method.edits(base.sites, generator(0)))
    model = wrapped(tiny_base(key).model, peft.IA3Config(**settings))
    state: dict[str, torch.Tensor] = {}
    for edit in edits:
        (vector,) = edit.trained().values()
        value = vector[:, None] if isinstance(edit, OutputScale) else vector[None]
        state[f"base_model.model.{base.sites[edit.site].module}.ia3_l.default"] = value
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert not [name for name in missing.missing_keys if "ia3" in name]
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)
    assert apart(found, model(**inputs).logits) < 1e-5
    assert apart(found, logits(base, inputs)) > 1e-2


@pytest.mark.parametrize("key", FAMILIES)
def test_it_scales_the_weights_of_every_family(key: str) -> None:
    """Rows of k and v with their biases, and columns of down, in a copy of the model: slices of fused projections too."""
    base = base_of(key)
    edits = perturbed(IA3().edits(base.sites, generator(0)))
    names = {edit.site.rpartition(".")[2] for edit in edits}
    assert names == {"k", "v", "down"}
    if key == "albert":  # a shared block has one weight, and factors of it for each call
        return
    model = copy.deepcopy(base.model)
    with torch.no_grad():
        for edit in edits:
            site = base.sites[edit.site]
            module = model.get_submodule(site.module)
            view = base.linear(site)
            weight, bias = module.get_parameter("weight"), module._parameters.get("bias")
            weight = weight.T if view.transposed else weight  # type: ignore[assignment]
            if isinstance(edit, InputScale):
                weight.mul_(edit.scale_I)
                continue
            assert isinstance(edit, OutputScale)
            rows = torch.arange(site.width) if site.part is None else site.part.rows()
            weight[rows] *= edit.scale_O[:, None]
            if bias is not None:
                bias[rows] *= edit.scale_O
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)
    assert apart(found, model(**inputs).logits) < 1e-5
    assert apart(found, logits(base, inputs)) > 1e-2


def test_the_start_is_ones_and_the_recipe_the_papers() -> None:
    assert all(bool((value == 1).all()) for value in IA3().edits(base_of("t5").sites, generator(0)).state().values())
    assert (IA3.recipe.lr, IA3.recipe.optimizer) == (3e-3, "adafactor")


def test_what_it_refuses() -> None:
    with pytest.raises(InputError, match="both empty"):
        IA3(at="", at_inputs="")
    with pytest.raises(UnsupportedError, match=r"part of the fused block\.0\.attn\.qkv, whose parts share one input"):
        IA3(at_inputs="block.*.attn.q").edits(base_of("gpt2").sites, None)
