"""UniPELT against its formula; AdapterHub's own numbers are in tests/parity."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import TokenPrompt
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.unipelt import GatedBottleneck, GatedLoRA, GatedPrefix, UniPELT
from tests.edits.worn import Worn, apart, base_of, generated, left_padded, logits, perturbed, row, wear, worn
from tests.methods.test_prefix import count as count_of_prefix
from tests.tiny import tiny_base, tiny_inputs

METHOD = UniPELT(length=3, rank=2, bottleneck=4)


def count(method: UniPELT, base: Base) -> int:
    """By the docstring, site by site."""
    sites = base.sites
    total = count_of_prefix(Prefix(length=method.length, at=method.prefix_at), base)
    total += sum(site.width + 1 for site in sites.select(method.prefix_at, "sublayer"))
    for site in sites.select(method.adapter_at, "sublayer"):
        units = method.bottleneck or site.width // method.reduction
        total += 2 * site.width * units + units + site.width + site.width + 1
    if method.variant == "apl":
        for site in sites.select(method.lora_at, "projection"):
            assert site.in_width is not None
            total += method.rank * (site.in_width + site.width) + site.in_width + 1
    return total


def worn_of(base: Base, seed: int = 0, **settings: Any) -> Worn:
    return wear(base, "unipelt", seed, **{"length": 3, "rank": 2, "bottleneck": 4, **settings})


def shut(edits: Edits, by: float) -> Edits:
    """Gates that are the same for every input: weights zero, biases `by`."""
    out = {}
    for name, value in edits.state().items():
        gate = ".gate_" in name
        out[name] = value if not gate else torch.full_like(value, by) if "bias" in name else torch.zeros_like(value)
    return edits.with_state(out)


@pytest.mark.parametrize("key", ["bert", "llama", "t5", "bart", "gemma2"])
def test_constant_gates_are_scales(key: str) -> None:
    """G = ¼: a prefix with a quarter of the keys and values, a quarter of the adapter, LoRA with the scale ¼."""
    base = base_of(key)
    edits = shut(worn_of(base, length=3).edits, -float(torch.log(torch.tensor(3.0))))
    plain = []
    for edit in edits:
        if isinstance(edit, GatedPrefix):
            (own,) = [e for e in Prefix(length=3, shift=False).edits(base.sites, None) if e.site == edit.site]
            plain.append(own.with_tensors({"prefix_L2KND": edit.prefix_L2KND / 4}))
        elif isinstance(edit, GatedLoRA):
            plain.append(edit.with_tensors({"b_OK": edit.b_OK / 4, "gate_bias_1": torch.full((1,), 50.0)}))
        else:
            assert isinstance(edit, GatedBottleneck)
            quarter = {"up_HM": edit.up_HM / 4, "up_bias_H": edit.up_bias_H / 4, "gate_bias_1": torch.full((1,), 50.0)}
            plain.append(edit.with_tensors(quarter))
    inputs = tiny_inputs(base)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            with attach(base, worn(*plain)):
                wanted = logits(base, inputs)
            with attach(base, Worn(edits)):
                assert apart(logits(base, inputs), wanted) < 1e-5


def test_a_pooled_gate_is_the_mean_over_the_row_s_own_tokens() -> None:
    """One LoRA in the first block of BERT, by hand from the embeddings; the second row is padded."""
    base = base_of("bert")
    (edit,) = [e for e in worn_of(base).edits if e.site == "block.0.attn.q"]
    assert isinstance(edit, GatedLoRA)
    inputs = tiny_inputs(base)
    seen: list[tuple[Tensor, Tensor]] = []
    module = base.module(base.sites["block.0.attn.q"].module)
    handle = module.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        logits(base, inputs)
        with attach(base, worn(edit)):
            logits(base, inputs)
    handle.remove()
    (x, before), (_, after) = seen
    real = inputs["attention_mask"].bool()
    for number in range(3):
        gates = torch.sigmoid(x[number] @ edit.gate_I + edit.gate_bias_1)
        wanted = before[number] + gates[real[number]].mean() * (x[number] @ edit.a_KI.T @ edit.b_OK.T)
        assert apart(after[number], wanted) < 1e-5


@pytest.mark.parametrize("key", ["gpt2", "mistral", "t5"])
def test_no_token_of_a_causal_stack_sees_a_later_one(key: str) -> None:
    base = base_of(key)
    inputs = tiny_inputs(base)
    name = "decoder_input_ids" if base.kind == "encoder-decoder" else "input_ids"
    other = {**inputs, name: torch.cat([inputs[name][:, :-1], inputs[name][:, -1:] ^ 1], 1)}
    with torch.no_grad(), attach(base, worn_of(base)):
        one, two = logits(base, inputs)[0], logits(base, other)[0]
    assert apart(two[:-1], one[:-1]) < 1e-6
    assert apart(two[-1], one[-1]) > 1e-3


@pytest.mark.parametrize("key", ["gpt2", "llama", "mistral", "t5", "bart"])
def test_the_cache_changes_nothing(key: str) -> None:
    base = base_of(key)
    inputs = left_padded(base, [4, 7, 2])
    with torch.no_grad(), attach(base, worn_of(base)):
        found = generated(base, inputs)
        assert torch.equal(found, generated(base, inputs, use_cache=False))
    assert not torch.equal(found, generated(base, inputs))


@pytest.mark.parametrize("key", ["bert", "llama", "bart"])
def test_beside_other_prefixes_and_prompts(key: str) -> None:
    """In one adapter, where a gate acts on its own slots alone, and in the rows of a batch."""
    base = base_of(key)
    embed = "encoder.embed" if base.kind == "encoder-decoder" else "embed"
    adapters = [
        worn(*worn_of(base, 1).edits, *wear(base, "prefix", 2, length=2).edits, TokenPrompt(site=embed, length=2, ids=(30, 41))),
        worn_of(base, 3, length=5, variant="ap"),
        wear(base, "prefix", 4, length=4),
        wear(base, "lora", 5),
    ]
    slots = [1, 0, None, 2, 3, 0]
    inputs = tiny_inputs(base, rows=6)
    with torch.no_grad(), attach(base, adapters, slots):
        mixed = logits(base, inputs)
    for number, slot in enumerate(slots):
        with torch.no_grad(), attach(base, adapters, [slot]):
            alone = logits(base, row(inputs, number))
        assert apart(mixed[number : number + 1, : alone.shape[1]], alone) < 1e-5, number


def test_a_gate_leaves_other_slots_alone() -> None:
    """A prefix beside a shut gate is what it is without its neighbour's values."""
    base = base_of("llama")
    (gate,) = [edit for edit in shut(worn_of(base, variant="ap").edits, -50.0) if isinstance(edit, GatedPrefix)]
    other = wear(base, "prefix", 2, length=2, shift=False).edits
    zero = Prefix(length=3, shift=False).edits(base.sites, generator(0))
    zero = zero.with_state({name: torch.zeros_like(value) for name, value in zero.state().items()})
    inputs = tiny_inputs(base)
    with torch.no_grad():
        with attach(base, worn(*zero, *other)):
            wanted = logits(base, inputs)
        with attach(base, worn(gate, *other)):
            assert apart(logits(base, inputs), wanted) < 1e-5


def test_eager_attention_agrees() -> None:
    base, eager = base_of("t5"), tiny_base("t5")
    eager.model.set_attn_implementation("eager")
    inputs, adapter = tiny_inputs(base), worn_of(base)
    with torch.no_grad():
        with attach(base, adapter):
            wanted = logits(base, inputs)
        with attach(eager, adapter):
            assert apart(logits(eager, inputs), wanted) < 1e-5


def test_the_variants() -> None:
    base = base_of("bert")
    kinds = {type(edit) for edit in perturbed(UniPELT(variant="ap").edits(base.sites, generator(0)))}
    assert kinds == {GatedPrefix, GatedBottleneck}
    assert GatedLoRA in {type(edit) for edit in UniPELT().edits(base.sites, None)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"length": 0}, "length is 0"),
        ({"bottleneck": 0}, "bottleneck is 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        UniPELT(**settings)  # type: ignore[arg-type]


def test_what_cannot_be() -> None:
    base = base_of("bert")
    with pytest.raises(InputError, match=r"rank 100 is above that of block\.0\.attn\.q"):
        UniPELT(rank=100).edits(base.sites, None)
    twice = worn(*worn_of(base).edits, *worn_of(base, 1).edits)
    with attach(base, twice), pytest.raises(UnsupportedError, match="Two prefixes with a gate"):
        logits(base, tiny_inputs(base))
    with attach(base, worn_of(base)), pytest.raises(UnsupportedError, match="two-dimensional"):
        logits(base, {**tiny_inputs(base), "attention_mask": torch.ones(3, 7, 7, dtype=torch.long)})
