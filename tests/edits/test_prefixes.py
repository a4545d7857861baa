"""Prefixes and prompts before the input, against the plain model on a longer input."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PrefixEdit, TokenPrompt
from lmtailor.edits.prefixes import PrefixStore
from lmtailor.methods.hard_prompt import HardPrompt
from lmtailor.methods.method import Starts, Words
from tests.edits.overwritten import logits_after
from tests.edits.worn import (
    BEAMS,
    Given,
    Worn,
    apart,
    base_of,
    generated,
    left_padded,
    logits,
    method,
    noise,
    row,
    wear,
    worn,
)
from tests.tiny import FAMILIES, kind_of, tiny_base, tiny_config, tiny_inputs, tiny_tokenizer

CAUSAL = [key for key in FAMILIES if kind_of(key) == "decoder"]
PROMPT = (40, 51, 33, 60, 47, 55, 38, 62, 44)
"""Nine tokens: more than the windows of the tiny models."""
_SOME_LAYERS = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2}
WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {},
    "gemma2": {},
    "gemma3_text": {},
    "modernbert": {},
    "phi3": {"sliding_window": 6},
    "qwen2": _SOME_LAYERS,
    "qwen3": _SOME_LAYERS,
}
"""Families with windows, all shorter than PROMPT."""


def pairs_of(adapter: Worn) -> dict[str, Tensor]:
    """Attention site → keys and values (2, K, N, D)."""
    out: dict[str, Tensor] = {}
    for edit in adapter.edits:
        assert isinstance(edit, PrefixEdit)
        out.update(zip(edit.sites, edit.key_values(), strict=True))
    return out


# tuned prefixes


PLACES = [
    *((key, where) for key in FAMILIES for where in ("block.*.attn", "block.[1,3].attn")),
    *((key, "block.*.{attn,cross}") for key in FAMILIES if kind_of(key) == "encoder-decoder"),
]


@pytest.mark.parametrize(("key", "where"), PLACES)
def test_a_prefix_is_keys_and_values_of_tokens_before_the_input(key: str, where: str) -> None:
    """Positions, masks and relative biases, with gradient (concatenated) and without (merged); and the gradients themselves."""
    base = base_of(key)
    inputs = tiny_inputs(base)
    adapter = wear(base, "prefix", grad=True, length=3, at=where, std=0.5)
    real = inputs["attention_mask"].bool() if base.kind != "encoder-decoder" else slice(None)
    wanted = logits_after(base, inputs, pairs_of(adapter), 3)[real]
    weight, tensors = noise(*wanted.shape), list(adapter.edits.state().values())
    with attach(base, adapter):
        found = logits(base, inputs)[real]
        gradients = torch.autograd.grad((found * weight).sum(), tensors)
        with torch.no_grad():
            merged = logits(base, inputs)[real]
    assert apart(found, wanted) < 1e-5
    assert apart(merged, wanted) < 1e-5
    for gradient, reference in zip(gradients, torch.autograd.grad((wanted * weight).sum(), tensors), strict=True):
        assert apart(gradient, reference) < 1e-4


@pytest.mark.parametrize("key", WINDOWS)
def test_prefix_tokens_obey_the_windows(key: str) -> None:
    """The prefix is longer than the window, so that most of it is out of sight for some tokens."""
    base = tiny_base(key, **WINDOWS[key])
    assert any(site.attention is not None and site.attention.window is not None for site in base.sites.values())
    inputs = tiny_inputs(base)
    real = inputs["attention_mask"].bool()
    adapter = wear(base, "prefix", length=len(PROMPT), std=0.5)
    wanted = logits_after(base, inputs, pairs_of(adapter), len(PROMPT))[real]
    with attach(base, adapter):
        assert apart(logits(base, inputs)[real], wanted) < 1e-5
        with torch.no_grad():
            assert apart(logits(base, inputs)[real], wanted) < 1e-5


@pytest.mark.parametrize("key", ["gpt2", "llama", "bert", "bart"])
def test_without_shift_the_input_keeps_its_positions(key: str) -> None:
    """Two prefixes of one token, one behind the other, are one of two; without shift they move nothing."""
    base = base_of(key)
    inputs = tiny_inputs(base)
    with_shift, without = (wear(base, "prefix", length=3, shift=shift) for shift in (True, False))
    with torch.no_grad():
        with attach(base, with_shift):
            moved = logits(base, inputs)
        with attach(base, without):
            still = logits(base, inputs)
        if key == "bart":  # takes no positions from outside
            assert apart(still, moved) > 1e-3
            return
        tokens = inputs["input_ids"].shape[1]
        with attach(base, without):
            again = logits(base, inputs, position_ids=torch.arange(3, 3 + tokens)[None])
    assert apart(still, moved) > 1e-3
    assert apart(again, moved) < 1e-6


@pytest.mark.parametrize("key", [key for key in WINDOWS if kind_of(key) == "decoder"])
@pytest.mark.parametrize("shift", [True, False])
def test_a_prompt_behind_a_prefix_stands_in_the_window_where_its_tokens_would(key: str, shift: bool) -> None:
    """The prompt's tokens as keys and values, and in the sequence itself, both behind the same tuned prefix."""
    base = tiny_base(key, **WINDOWS[key])
    tuned, hard = (
        wear(base, "prefix", length=3, std=0.5, shift=shift),
        HardPrompt(ids=tuple(range(11, 18))).edits(base.sites, None),
    )
    both = replace(tuned, edits=Edits((*tuned.edits, *hard)))
    ids = torch.randint(10, 40, (2, 6), generator=torch.Generator().manual_seed(0))
    prompt = torch.arange(11, 18).expand(2, -1)
    with torch.no_grad():
        with attach(base, tuned):
            wanted = logits(base, {"input_ids": torch.cat([prompt, ids], 1)})[:, 7:]
        with attach(base, both):
            found = logits(base, {"input_ids": ids})
    assert apart(found, wanted) < 1e-5


# prompts of causal decoders


def concatenated(base: Base, inputs: dict[str, Tensor], prompt_NH: Tensor) -> Tensor:
    """The plain model's logits on embeddings behind a prompt's."""
    own = base.module(base.read.embedding)(inputs["input_ids"]) * base.read.embedding_scale
    embeds = torch.cat([prompt_NH.expand(len(own), -1, -1), own], 1)
    mask = torch.cat([torch.ones(len(own), len(prompt_NH), dtype=torch.long), inputs["attention_mask"]], 1)
    return logits(base, {"inputs_embeds": embeds, "attention_mask": mask})[:, len(prompt_NH) :]


@pytest.mark.parametrize("key", CAUSAL)
def test_a_soft_prompt_is_a_concatenation(key: str) -> None:
    """Run once, attached as keys and values: equal in the forward and in the gradient, under LoRA too."""
    base = tiny_base(key, **WINDOWS.get(key, {}))
    inputs = tiny_inputs(base)
    real = inputs["attention_mask"].bool()
    prompt = noise(len(PROMPT), base.hidden_size).requires_grad_()
    lora = wear(base, "lora", rank=2, grad=True).edits
    tensors = [prompt, *lora.state().values()]
    with attach(base, worn(*lora)):
        wanted = concatenated(base, inputs, prompt)[real]
        weight = noise(*wanted.shape)
        references = torch.autograd.grad((wanted * weight).sum(), tensors)
    with attach(base, worn(*lora, Given(site="embed", length=len(PROMPT), prompt_NH=prompt))):
        found = logits(base, inputs)[real]
        gradients = torch.autograd.grad((found * weight).sum(), tensors)
        with torch.no_grad():
            merged = logits(base, inputs)[real]
    assert apart(found, wanted) < 1e-5
    assert apart(merged, wanted) < 1e-5
    for gradient, reference in zip(gradients, references, strict=True):
        assert apart(gradient, reference) < 1e-4


@pytest.mark.parametrize("beams", [False, True], ids=["greedy", "beams"])
@pytest.mark.parametrize("key", CAUSAL)
def test_a_hard_prompt_is_a_concatenation_in_generate(key: str, beams: bool) -> None:
    """Left-padded rows, with a cache, against each row alone behind the prompt's tokens."""
    base = tiny_base(key, **WINDOWS.get(key, {}))
    inputs, options = left_padded(base, [4, 7, 2]), BEAMS if beams else {}
    with attach(base, worn(TokenPrompt(site="embed", length=len(PROMPT), ids=PROMPT))):
        found = generated(base, inputs, **options)
    per_row = 2 if beams else 1
    for number in range(3):
        one = row(inputs, number)["input_ids"]
        whole = torch.cat([torch.tensor([PROMPT]), one], 1)
        wanted = generated(base, {"input_ids": whole, "attention_mask": torch.ones_like(whole)}, **options)
        assert torch.equal(found[number * per_row : (number + 1) * per_row], wanted)


def test_positions_count_the_mask_where_the_model_counts_it() -> None:
    """OPT takes positions from the mask, so rows padded on the left need no positions from outside."""
    base = base_of("opt")
    inputs = left_padded(base, [4, 7])
    with torch.no_grad(), attach(base, worn(TokenPrompt(site="embed", length=3, ids=PROMPT[:3]))):
        found = logits(base, inputs)
        for number in range(2):
            alone = logits(base, row(inputs, number))
            assert apart(found[number : number + 1, -alone.shape[1] :], alone) < 1e-5


@pytest.mark.parametrize("key", ["gpt2", "llama", "opt"])
def test_positions_from_outside_move_on(key: str) -> None:
    base = base_of(key)
    inputs = left_padded(base, [4, 7])
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    with torch.no_grad(), attach(base, worn(TokenPrompt(site="embed", length=3, ids=PROMPT[:3]))):
        found = logits(base, inputs, position_ids=positions)
        for number in range(2):
            alone = logits(base, row(inputs, number))
            assert apart(found[number : number + 1, -alone.shape[1] :], alone) < 1e-5


@pytest.mark.parametrize("key", ["gpt2", "llama", "gemma3_text", "bert", "bart", "t5"])
def test_a_prefix_from_words_is_those_words(key: str) -> None:
    """init="text": in causal decoders the plain model behind the words themselves."""
    base = base_of(key)
    prefix = method("prefix", length=4, init="text", text="a good movie was great")
    assert isinstance(prefix, Starts)
    edits = prefix.started(prefix.edits(base.sites, generator(0)), base, Words(), generator(0))
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)
    if base.kind != "decoder":
        assert apart(found, logits(base, inputs)) > 1e-3
        return
    ids = torch.tensor(base.tokenizer("a good movie was great", add_special_tokens=False)["input_ids"][:4])
    whole = {
        "input_ids": torch.cat([ids.expand(len(found), -1), inputs["input_ids"]], 1),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (4, 0), value=1),
    }
    real = inputs["attention_mask"].bool()
    assert apart(found[real], logits(base, whole)[:, 4:][real]) < 1e-5


def test_a_tuned_prefix_stands_before_a_prompt() -> None:
    """Both in one adapter: the prompt sees the prefix, the input sees both."""
    base = base_of("llama")
    inputs = tiny_inputs(base)
    prefix, ids = wear(base, "prefix", length=3), PROMPT[:4]
    with torch.no_grad(), attach(base, worn(*prefix.edits, TokenPrompt(site="embed", length=4, ids=ids))):
        found = logits(base, inputs)
    longer = {
        "input_ids": torch.cat([torch.tensor(ids).expand(3, -1), inputs["input_ids"]], 1),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (4, 0), value=1),
    }
    real = inputs["attention_mask"].bool()
    assert apart(found[real], logits_after(base, longer, pairs_of(prefix), 3)[:, 4:][real]) < 1e-5


def test_a_prompt_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding steps and later passes find its keys and values; a changed prompt is run again."""
    base = base_of("llama")
    record, runs = PrefixStore._record, []

    def counted(self: PrefixStore, slots: list[int]) -> object:
        runs.append(slots)
        return record(self, slots)

    monkeypatch.setattr(PrefixStore, "_record", counted)
    prompt = noise(3, 48)
    with torch.no_grad(), attach(base, worn(Given(site="embed", length=3, prompt_NH=prompt))):
        first = generated(base, left_padded(base, [4, 7]), **BEAMS)
        assert len(runs) == 1
        before = logits(base, tiny_inputs(base))
        assert len(runs) == 1
        prompt.mul_(-3.0)
        assert apart(logits(base, tiny_inputs(base)), before) > 1e-2
        assert len(runs) == 2
        assert not torch.equal(generated(base, left_padded(base, [4, 7]), **BEAMS), first)


def test_autocast_does_not_leave_its_keys_behind() -> None:
    base = base_of("gpt2")
    adapter, inputs = worn(TokenPrompt(site="embed", length=9, ids=PROMPT)), tiny_inputs(base)
    with torch.no_grad():
        with attach(base, adapter):
            wanted = logits(base, inputs)
        with attach(base, adapter):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits(base, inputs)
            assert torch.equal(logits(base, inputs), wanted)


# what cannot be


@pytest.mark.parametrize("name", ["prefix", "soft_prompt"])
@pytest.mark.parametrize("key", ["gpt2", "bart", "bert", "roberta", "opt"])
def test_the_table_of_positions_is_not_overrun(key: str, name: str) -> None:
    base = base_of(key)
    room = min(stack.max_positions for stack in base.stacks if stack.max_positions is not None)
    length = room - 10
    with torch.no_grad():
        with attach(base, wear(base, name, length=length)):
            logits(base, tiny_inputs(base, tokens=10))
        with (
            attach(base, wear(base, name, length=length + 1)),
            pytest.raises(InputError, match=f"{room + 1} positions; the model has {room}"),
        ):
            logits(base, tiny_inputs(base, tokens=10))


def test_a_prompt_longer_than_the_table_of_positions_raises() -> None:
    base = base_of("gpt2")
    with (
        attach(base, wear(base, "soft_prompt", length=129)),
        pytest.raises(InputError, match="129 tokens is longer than the model's 128"),
    ):
        logits(base, tiny_inputs(base, tokens=2))


ROPE: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}, "max_position_embeddings": 12},
    "phi3": {
        "rope_parameters": {
            "rope_type": "longrope",
            "short_factor": [1.0] * 4,
            "long_factor": [2.0, 3.0, 4.0, 5.0],
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 12,
        },
        "original_max_position_embeddings": 12,
    },
}


@pytest.mark.parametrize("key", ROPE)
def test_rotations_that_depend_on_the_batch_refuse_mixed_shifts(key: str) -> None:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(tiny_config(key, **ROPE[key]))  # type: ignore[no-untyped-call]
    base = Base.from_model(model, tiny_tokenizer("decoder"))
    short, long = (wear(base, "prefix", seed, length=length) for seed, length in enumerate([2, 9]))
    inputs = tiny_inputs(base, rows=2)
    with attach(base, [short, long], [0, 1]), pytest.raises(UnsupportedError, match="depends on the longest sequence"):
        logits(base, inputs)
    with attach(base, [short], [0, None]), pytest.raises(UnsupportedError, match="depends on the longest sequence"):
        logits(base, inputs)
    with torch.no_grad(), attach(base, long):
        wanted = logits(base, inputs)
    with torch.no_grad(), attach(base, [short, long], [1, 1]):
        assert apart(logits(base, inputs), wanted) < 1e-6
    assert apart(wanted[0], logits_after(base, inputs, pairs_of(long), 9)[0]) < 1e-5


def test_attention_without_masks_refuses_prefixes() -> None:
    base = tiny_base("llama")
    base.model.config._attn_implementation_internal = "flex_attention"
    with pytest.raises(UnsupportedError, match="'flex_attention'"), attach(base, wear(base, "prefix", length=2)):
        pass
    with attach(base, wear(base, "lora")):
        pass


@pytest.mark.parametrize("key", ["llama", "bert", "t5", "bart"])
def test_eager_attention_agrees(key: str) -> None:
    base, eager = base_of(key), tiny_base(key)
    eager.model.set_attn_implementation("eager")
    inputs, adapter = tiny_inputs(base), wear(base, "prefix", length=3)
    with torch.no_grad():
        with attach(base, adapter):
            wanted = logits(base, inputs)
        with attach(eager, adapter):
            assert apart(logits(eager, inputs), wanted) < 1e-5
