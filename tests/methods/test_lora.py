"""LoRA against PEFT's."""

from typing import Any, Literal

import peft
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, SiteError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.methods._lora import row_norms
from lmtailor.methods.lora import LoRA, LoRAEdit
from tests.edits.worn import Worn, apart, backward, base_of, logits, perturbed
from tests.methods.theirs import wrapped
from tests.tiny import tiny_base, tiny_inputs


def count(method: LoRA, base: Base) -> int:
    """Σ K · (I + O), + O for a magnitude or a bias, from the weights themselves."""
    total = 0
    for site in base.sites.select(method.at, "projection", "embedding"):
        weight = base.model.get_submodule(site.module).get_parameter("weight")
        out, width = base.linear(site).weight_OI.shape if site.kind == "projection" else weight.shape
        own = [rank for pattern, rank in method.rank_pattern.items() if site in base.sites.select(pattern)]
        total += (own or [method.rank])[0] * (out + width) + out * (method.dora + method.bias)
    return total


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
    ("llama", LoRA(rank=4, alpha=6.0, dora=True), {"target_modules": ["q_proj", "v_proj"], "use_dora": True}),
    (
        "gpt2",
        LoRA(rank=3, alpha=5.0, at="block.*.attn.{qkv,o}", dora=True, rslora=True),
        {"target_modules": ["c_attn", "attn.c_proj"], "fan_in_fan_out": True, "use_dora": True, "use_rslora": True},
    ),
    ("bert", LoRA(rank=4, alpha=8.0, dora=True), {"target_modules": ["query", "value"], "use_dora": True}),
    ("bert", LoRA(rank=4, alpha=8.0, bias=True), {"target_modules": ["query", "value"], "lora_bias": True}),
    (
        "llama",
        LoRA(rank=4, alpha=6.0, rank_pattern={"block.0.attn.{q,v}": 2}, alpha_pattern={"block.*.attn.v": 9.0}),
        {
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"layers.0.self_attn.[qv]_proj": 2},
            "alpha_pattern": {"v_proj": 9},
        },
    ),
    ("llama", LoRA(rank=4, alpha=6.0, init="pissa"), {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": "pissa"}),
    ("bert", LoRA(rank=4, alpha=6.0, init="olora"), {"target_modules": ["query", "value"], "init_lora_weights": "olora"}),
    (
        "llama",
        LoRA(rank=4, alpha=6.0, init="pissa", dora=True, rslora=True),
        {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": "pissa", "use_dora": True, "use_rslora": True},
    ),
]
THEIR_NAMES = {
    "a_KI": "lora_A.default.weight",
    "b_OK": "lora_B.default.weight",
    "bias_O": "lora_B.default.bias",
    "m_O": "lora_magnitude_vector.default.weight",
}


def in_peft(key: str, method: LoRA, edits: Edits, settings: dict[str, Any]) -> Any:
    """PEFT's model with the same values in it."""
    config = peft.LoraConfig(r=method.rank, lora_alpha=int(method.alpha), lora_dropout=0.0, **settings)
    model = wrapped(tiny_base(key).model, config)
    state = {
        f"base_model.model.{base_of(key).sites[edit.site].module}.{THEIR_NAMES[name]}": tensor.detach()
        for edit in edits
        for name, tensor in edit.trained().items()
    }
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert not [name for name in missing.missing_keys if "lora" in name]
    return model


@pytest.mark.parametrize(("key", "method", "settings"), PARITY, ids=lambda value: value if isinstance(value, str) else "")
def test_peft_computes_the_same(key: str, method: LoRA, settings: dict[str, Any]) -> None:
    base = base_of(key)
    edits = perturbed(method.edits(base.sites, generator(0)))
    model, inputs = in_peft(key, method, edits, settings), tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)
    assert apart(found, model(**inputs).logits) < 1e-5
    assert apart(found, logits(base, inputs)) > 1e-2


@pytest.mark.parametrize(("key", "method", "settings"), [PARITY[5], PARITY[7], PARITY[10], PARITY[12]], ids=lambda value: "")
def test_gradients_are_those_of_peft(key: str, method: LoRA, settings: dict[str, Any]) -> None:
    """In particular, the norms of DoRA are constants."""
    base = base_of(key)
    edits = perturbed(method.edits(base.sites, generator(0)), grad=True)
    model, inputs = in_peft(key, method, edits, settings), tiny_inputs(base)
    model(**inputs).logits.square().mean().backward()
    with attach(base, Worn(edits)):
        backward(logits(base, inputs).square().mean())
    theirs = dict(model.named_parameters())
    for edit in edits:
        for name, tensor in edit.trained().items():
            wanted = theirs[f"base_model.model.{base.sites[edit.site].module}.{THEIR_NAMES[name]}"].grad
            assert tensor.grad is not None
            assert apart(tensor.grad, wanted) < 1e-4, (edit.site, name)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True")  # the head's weight stays; so it does here
@pytest.mark.parametrize("key", ["llama", "gpt2", "bart", "gemma3_text"])
def test_word_embeddings(key: str) -> None:
    """A row of A for each token. Where the table scales its output, PEFT scales the addition too; here alpha does."""
    base = base_of(key)
    site = base.sites.select("embed", "embedding")[0]
    own = getattr(base.module(site.module), "embed_scale", 1.0)
    edits = perturbed(LoRA(rank=4, alpha=6.0 * float(own), at=site.name).edits(base.sites, generator(0)))
    model = wrapped(tiny_base(key).model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=[site.module]))
    state = {
        f"base_model.model.{site.module}.lora_embedding_{name}.default": edits.state()[f"{site.name}.{field}"]
        for name, field in (("A", "a_KV"), ("B", "b_HK"))
    }
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)
    assert apart(found, model(**inputs).logits) < 1e-5
    assert apart(found, logits(base, inputs)) > 1e-2


@pytest.mark.parametrize("settings", [{"dora": True}, {"bias": True}, {"init": "pissa"}])
def test_word_embeddings_take_plain_lora_alone(settings: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"At embed of llama, a table and no projection"):
        LoRA(at="embed", **settings).edits(base_of("llama").sites, None)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_starts_are_those_of_peft(init: Literal["pissa", "olora"]) -> None:
    """Up to the signs of singular vectors, which their product does not have."""
    base, method = base_of("llama"), LoRA(rank=4, alpha=6.0, init=init)
    theirs = wrapped(
        tiny_base("llama").model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], init_lora_weights=init)
    ).state_dict()
    for edit in method.edits(base.sites, generator(0)):
        assert isinstance(edit, LoRAEdit)
        assert edit.a0_KI is not None
        path = f"base_model.model.{base.sites[edit.site].module}"
        b, a = theirs[f"{path}.lora_B.default.weight"], theirs[f"{path}.lora_A.default.weight"]
        assert apart(edit.b_OK @ edit.a_KI, b @ a) < 1e-5
        assert torch.equal(edit.a0_KI, edit.a_KI)
        residual = base.linear(base.sites[edit.site]).weight_OI - 1.5 * (edit.b_OK @ edit.a_KI)
        assert apart(residual, theirs[f"{path}.base_layer.weight"]) < 1e-5


def test_norms_without_the_dense_change() -> None:
    rng = generator(0)
    weight, a, b = (torch.randn(*shape, generator=rng) for shape in ((7, 5), (3, 2, 5), (3, 7, 2)))
    wanted = torch.linalg.vector_norm(weight + b @ a, dim=2)
    assert apart(row_norms(weight, a, b), wanted) < 1e-6


def test_norms_are_computed_once_a_set_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    base, calls = base_of("llama"), []

    def counted(*args: torch.Tensor) -> torch.Tensor:
        calls.append(len(args))
        return row_norms(*args)

    monkeypatch.setattr("lmtailor.methods._dora.row_norms", counted)
    edits = perturbed(LoRA(rank=2, dora=True).edits(base.sites, generator(0)))
    with torch.no_grad(), attach(base, Worn(edits)):
        first = logits(base, tiny_inputs(base))
        assert torch.equal(logits(base, tiny_inputs(base)), first)
        assert len(calls) == len(edits)
        edits.state()["block.0.attn.q.b_OK"].add_(0.3)
        assert apart(logits(base, tiny_inputs(base)), first) > 1e-4
        assert len(calls) == len(edits) + 1


def test_b_has_a_rate_of_its_own() -> None:
    method = LoRA(rank=2, b_rate=16.0, dora=True, at="block.0.attn.{q,v}")
    rates = method.rates(method.edits(base_of("llama").sites, None))
    assert rates == {"block.0.attn.q.b_OK": 16.0, "block.0.attn.v.b_OK": 16.0}


def test_start_factors_are_stored_and_not_trained() -> None:
    edits = LoRA(rank=2, init="pissa", at="block.0.attn.q").edits(base_of("llama").sites, None)
    assert set(edits.state()) == {"block.0.attn.q.a_KI", "block.0.attn.q.b_OK"}
    assert set(edits.fixed()) == {"block.0.attn.q.a0_KI", "block.0.attn.q.b0_OK"}


def test_the_first_pattern_counts() -> None:
    method = LoRA(at="block.*.attn.q", rank_pattern={"block.[0:2].attn.q": 3, "block.*.attn.q": 5})
    ranks = [len(edit.trained()["a_KI"]) for edit in method.edits(base_of("llama").sites, None)]
    assert ranks == [3, 3, 5, 5]


@pytest.mark.parametrize("name", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_selects_nothing_of_lora_raises(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: 'block\.\*\.ffn\.up' selects no site that LoRA is at"):
        LoRA(**{name: {"block.*.ffn.up": 2}}).edits(base_of("llama").sites, None)  # type: ignore[arg-type]
    with pytest.raises(SiteError, match=r"selects no site"):
        LoRA(**{name: {"block.9.attn.q": 2}}).edits(base_of("llama").sites, None)  # type: ignore[arg-type]


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
        ({"rank_pattern": {"block.*.attn.q": 0}}, "rank is 0"),
        ({"b_rate": 0.0}, r"b_rate is 0\.0; it must be above 0"),
        ({"dora": True, "bias": True}, r"do not go together. Write LoRA\(dora=True\) \+ BitFit"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LoRA(**settings)


def test_a_rank_above_the_matrix_raises() -> None:
    with pytest.raises(InputError, match=r"rank 17 is above that of block\.0\.attn\.v, a 16 × 48 matrix"):
        LoRA(rank=17).edits(base_of("llama").sites, None)
