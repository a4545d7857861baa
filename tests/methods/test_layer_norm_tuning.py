"""LayerNorm tuning: PEFT's, and the model's own norms changed."""

import copy
from typing import Any

import peft
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import SiteError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.layer_norm_tuning import LayerNormTuning, NormValues
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.methods.theirs import wrapped
from tests.tiny import FAMILIES, tiny_base, tiny_inputs


def norms(base: Base) -> dict[str, torch.Tensor]:
    """The trunk's parameters of norms by their own names: vectors of modules that are called norms."""
    return {
        name: value
        for name, value in base.trunk.named_parameters()
        if value.ndim == 1 and any(part in name.split(".")[-2].lower() for part in ("norm", "ln_"))
    }


def count(method: LayerNormTuning, base: Base) -> int:
    """Numbers in the trunk's norms."""
    if method.at is None:
        return sum(value.numel() for value in norms(base).values())
    modules = [base.module(site.module) for site in base.sites.select(method.at, "norm")]
    return sum(value.numel() for module in modules for value in module.parameters())


def test_the_count_by_hand() -> None:
    assert LayerNormTuning().edits(base_of("bert").sites, None).num_parameters == 2 * 48 * (1 + 4 * 2)
    assert LayerNormTuning().edits(base_of("llama").sites, None).num_parameters == 48 * (4 * 2 + 1)
    assert LayerNormTuning().edits(base_of("qwen3").sites, None).num_parameters == 48 * (4 * 2 + 1) + 4 * 2 * 16
    assert LayerNormTuning(at="block.*.norm1").edits(base_of("gemma2").sites, None).num_parameters == 4 * 48


@pytest.mark.parametrize("key", FAMILIES)
def test_it_has_the_values_of_every_norm(key: str) -> None:
    """The same numbers in a copy of the model, Gemma's stored gains included."""
    base = base_of(key)
    edits = perturbed(LayerNormTuning().edits(base.sites, generator(0)))
    if key == "albert":  # a shared block has one norm, and values of it for each call
        assert edits.num_parameters > count(LayerNormTuning(), base)
        return
    assert edits.num_parameters == count(LayerNormTuning(), base)
    model = copy.deepcopy(base.model)
    with torch.no_grad():
        for edit in edits:
            assert isinstance(edit, NormValues)
            module = model.get_submodule(base.sites[edit.site].module)
            module.get_parameter("weight").copy_(edit.gain_H)
            if edit.shift_H is not None:
                module.get_parameter("bias").copy_(edit.shift_H)
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)
    assert apart(found, model(**inputs).logits) < 1e-5
    assert apart(found, logits(base, inputs)) > 1e-2


PARITY: list[tuple[str, str | None, dict[str, Any]]] = [
    ("llama", None, {}),
    ("t5", None, {}),
    ("gemma2", "block.*.{norm1,norm2,norm3,norm4}", {"target_modules": r".*layers\.\d\.\w*layernorm"}),
    ("bert", "block.*.norm1", {"target_modules": ["attention.output.LayerNorm"]}),
]


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # PEFT counts features of RMS norms, which have none of that name
@pytest.mark.parametrize(("key", "at", "settings"), PARITY, ids=lambda value: value if isinstance(value, str) else "")
def test_peft_computes_the_same(key: str, at: str | None, settings: dict[str, Any]) -> None:
    base = base_of(key)
    edits = perturbed(LayerNormTuning(at=at).edits(base.sites, generator(0)))
    model = wrapped(tiny_base(key).model, peft.LNTuningConfig(**settings))
    state: dict[str, torch.Tensor] = {}
    for edit in edits:
        assert isinstance(edit, NormValues)
        start = f"base_model.model.{base.sites[edit.site].module}.ln_tuning_layers.default"
        state[f"{start}.weight"] = edit.gain_H
        if edit.shift_H is not None:
            state[f"{start}.bias"] = edit.shift_H
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert not [name for name in missing.missing_keys if "ln_tuning" in name]
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)
    assert apart(found, model(**inputs).logits) < 1e-5
    assert apart(found, logits(base, inputs)) > 1e-2


def test_a_pattern_that_selects_no_norm_raises() -> None:
    with pytest.raises(SiteError, match="selects no site of kind norm"):
        LayerNormTuning(at="block.*.attn.q").edits(base_of("llama").sites, None)


def test_a_union_with_another_change_of_a_norm_has_both() -> None:
    """BitFit's change of the shift is not lost, whichever comes first."""
    base = base_of("bert")
    rng = generator(0)
    first, second = (perturbed(method.edits(base.sites, rng)) for method in (BitFit(), LayerNormTuning()))
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(Edits((*first, *second)))):
        one = logits(base, inputs)
    with torch.no_grad(), attach(base, Worn(Edits((*second, *first)))):
        other = logits(base, inputs)
    with torch.no_grad(), attach(base, Worn(second)):
        alone = logits(base, inputs)
    assert apart(one, other) < 1e-5
    assert apart(one, alone) > 1e-2
