"""LoRA against PEFT's."""

from typing import Any

import peft
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.methods.lora import LoRA, LoRAEdit
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.methods.theirs import wrapped
from tests.tiny import tiny_base, tiny_inputs


def count(method: LoRA, base: Base) -> int:
    """Σ K · (I + O), from the weights themselves."""
    shapes = [base.linear(site).weight_OI.shape for site in base.sites.select(method.at, "projection")]
    return sum(method.rank * (out + width) for out, width in shapes)


def test_the_count_by_hand() -> None:
    """Four blocks, q and v, 48 × 48; in the grouped model v has two heads of eight features."""
    assert LoRA(rank=2).edits(base_of("bert").sites, None).num_parameters == 4 * 2 * 2 * (48 + 48)
    assert LoRA(rank=2).edits(base_of("llama").sites, None).num_parameters == 4 * 2 * ((48 + 48) + (48 + 16))


PARITY: list[tuple[str, LoRA, dict[str, Any]]] = [
    ("llama", LoRA(rank=4, alpha=6.0), {"target_modules": ["q_proj", "v_proj"]}),
    ("llama", LoRA(rank=4, alpha=6.0, rslora=True), {"target_modules": ["q_proj", "v_proj"], "use_rslora": True}),
    ("gpt2", LoRA(rank=3, alpha=5.0, at="block.*.attn.qkv"), {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    (
        "bert",
        LoRA(rank=4, alpha=8.0, at="block.*.ffn.{up,down}"),
        {"target_modules": r".*layer\.\d\.(intermediate|output)\.dense"},
    ),
    ("t5", LoRA(rank=4, alpha=8.0, at="block.*.{attn,cross}.{q,v}"), {"target_modules": ["q", "v"]}),
]


@pytest.mark.parametrize(("key", "method", "settings"), PARITY, ids=lambda value: value if isinstance(value, str) else "")
def test_peft_computes_the_same(key: str, method: LoRA, settings: dict[str, Any]) -> None:
    base = base_of(key)
    edits = perturbed(method.edits(base.sites, generator(0)))
    config = peft.LoraConfig(r=method.rank, lora_alpha=int(method.alpha), lora_dropout=0.0, **settings)
    model = wrapped(tiny_base(key).model, config)
    state: dict[str, torch.Tensor] = {}
    for edit in edits:
        assert isinstance(edit, LoRAEdit)
        path = f"base_model.model.{base.sites[edit.site].module}"
        state |= {f"{path}.lora_A.default.weight": edit.a_KI, f"{path}.lora_B.default.weight": edit.b_OK}
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert not [name for name in missing.missing_keys if "lora" in name]
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)
    assert apart(found, model(**inputs).logits) < 1e-5
    assert apart(found, logits(base, inputs)) > 1e-2


def test_the_start() -> None:
    """A uniform on ± 1/√I, as Kaiming's with a = √5 in PEFT; B zero."""
    (edit,) = LoRA(rank=8, at="block.0.ffn.down").edits(base_of("llama").sites, generator(0))
    assert isinstance(edit, LoRAEdit)
    bound = 64**-0.5
    assert edit.a_KI.abs().max() <= bound
    assert edit.a_KI.abs().max() > 0.95 * bound
    assert abs(float(edit.a_KI.std()) - bound / 3**0.5) < 0.05 * bound
    assert not edit.b_OK.any()


def test_dropout_acts_on_the_way_to_a_while_training() -> None:
    base = tiny_base("llama")
    inputs = tiny_inputs(base)
    edits = perturbed(LoRA(rank=4, dropout=0.5).edits(base.sites, generator(0)))
    without = perturbed(LoRA(rank=4).edits(base.sites, generator(0)))
    with torch.no_grad(), attach(base, Worn(without)):
        wanted = logits(base, inputs)
    with torch.no_grad(), attach(base, Worn(edits)):
        assert apart(logits(base, inputs), wanted) < 1e-6
        base.model.train()
        one, two = logits(base, inputs), logits(base, inputs)
    assert apart(one, wanted) > 1e-3
    assert apart(one, two) > 1e-3


def test_rows_may_differ_in_rank_and_scale_but_not_in_dropout() -> None:
    base = base_of("llama")
    keys = [
        method.edits(base.sites, None)[0].stack_key() for method in (LoRA(rank=2), LoRA(rank=7, alpha=1.0), LoRA(dropout=0.1))
    ]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0; LoRA needs at least 1"),
        ({"dropout": 1.0}, r"dropout is 1\.0; it must be at least 0 and less than 1"),
        ({"dropout": -0.1}, r"dropout is -0\.1"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LoRA(**settings)


def test_a_rank_above_the_matrix_raises() -> None:
    with pytest.raises(InputError, match=r"rank 17 is above that of block\.0\.attn\.v, a 16 × 48 matrix"):
        LoRA(rank=17).edits(base_of("llama").sites, None)
