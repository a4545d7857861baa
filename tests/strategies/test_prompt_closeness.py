"""Closeness of prompts against the papers' formulas in NumPy, on states of the plain model."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError
from lmtailor.methods.hard_prompt import HardPrompt
from lmtailor.methods.lora import LoRA
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.strategies.prompt_closeness import active_neurons, prompt_closeness, prompt_rows
from tests.edits.worn import base_of, outputs_of
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_base

UP = {
    "bert": "bert.encoder.layer.{}.intermediate.dense",
    "gpt2": "transformer.h.{}.mlp.c_fc",
    "llama": "model.layers.{}.mlp.gate_proj",
    "t5": "decoder.block.{}.layer.2.DenseReluDense.wi",
    "bart": "model.decoder.layers.{}.fc1",
}
"""What goes into the activation function."""


def prompt(base: Base, length: int, seed: int = 0, **settings: object) -> Adapter:
    return moved_adapter(base, SoftPrompt(length=length, **settings), by=0.5, seed=seed)  # type: ignore[arg-type]


def by_hand(base: Base, key: str, rows_NH: Tensor) -> list[Tensor]:
    """Active neurons of each block, from one sequence of virtual and real tokens through the plain model."""
    tokenizer = base.tokenizer
    ids = {"encoder": [5, tokenizer.mask_token_id, 6], "decoder": [1], "encoder-decoder": [2]}[base.kind]
    own = base.module(base.stacks[0].embedding)(torch.tensor(ids)) * base.stacks[0].embedding_scale
    inputs = {"inputs_embeds": torch.cat([rows_NH, own])[None]}
    if base.kind == "encoder-decoder":
        inputs["decoder_input_ids"] = torch.tensor([[base.model.config.decoder_start_token_id]])
    place = {"encoder": -2, "decoder": -1, "encoder-decoder": -1}[base.kind]
    states = []
    with torch.no_grad():
        for block in range(4):
            with outputs_of(base.module(UP[key].format(block))) as calls:
                base.model(**inputs)
            states.append(calls[0].reshape(-1, calls[0].shape[-1])[place] > 0)
    return states


@pytest.mark.parametrize("key", UP)
def test_neurons(key: str) -> None:
    base = base_of(key)
    one, other = prompt(base, 3), prompt(base, 5, seed=1)
    hands = [by_hand(base, key, next(iter(adapter.state.values()))) for adapter in (one, other)]
    for adapter, hand in zip((one, other), hands, strict=True):
        found = active_neurons(base, adapter)
        assert list(found) == [f"{'decoder.' if base.kind == 'encoder-decoder' else ''}block.{i}.ffn" for i in range(4)]
        assert all(torch.equal(states, wanted) for states, wanted in zip(found.values(), hand, strict=True))
    close = prompt_closeness(base, one, other)
    a, b = (np.stack([states.numpy() for states in hand]).astype(float) for hand in hands)
    assert 0 < a.mean() < 1
    for block, value in enumerate(close.by_layer.values()):
        assert value == pytest.approx(a[block] @ b[block] / np.sqrt(a[block].sum() * b[block].sum()), abs=1e-6)
    assert close.neurons == pytest.approx((a * b).sum() / np.sqrt(a.sum() * b.sum()), abs=1e-6)
    assert close.neurons < 1


def test_embeddings() -> None:
    base = base_of("bert")
    one, other = prompt(base, 3), prompt(base, 5, seed=1)
    a, b = (adapter.state["embed.prompt_NH"].double().numpy() for adapter in (one, other))
    close = prompt_closeness(base, one, other)
    mean_a, mean_b = a.mean(0), b.mean(0)
    assert close.of("average_tokens") == pytest.approx(
        mean_a @ mean_b / np.linalg.norm(mean_a) / np.linalg.norm(mean_b), abs=1e-5
    )
    pairs = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x in a for y in b]
    assert close.of("per_token") == pytest.approx(sum(pairs) / 15, abs=1e-5)


@pytest.mark.parametrize("key", ["bert", "albert", "modernbert", "gpt2", "phi3", "gemma2", "t5", "marian"])
def test_a_prompt_is_closest_to_itself(key: str) -> None:
    base = base_of(key)
    one, other = prompt(base, 3), prompt(base, 3, seed=1)
    itself, apart = prompt_closeness(base, one, one), prompt_closeness(base, one, other)
    assert itself.average_tokens == pytest.approx(1, abs=1e-5)
    assert itself.neurons == pytest.approx(1, abs=1e-5)
    assert all(value == pytest.approx(1, abs=1e-5) for value in itself.by_layer.values())
    assert apart.average_tokens < 0.99
    assert apart.neurons < 1
    assert len(itself.by_layer) == 4


def test_tokens_beside_the_gap_are_not_read() -> None:
    """The state at the mask token, wherever virtual tokens stand."""
    base = base_of("bert")
    for place in ("before_gap", "after_gap"):
        adapter = prompt(base, 3, place=place)
        rows = adapter.state["embed.prompt_NH"]
        own = base.module(base.stacks[0].embedding)(torch.tensor([5, 4, 6]))
        parts = (own[:1], rows, own[1:]) if place == "before_gap" else (own[:2], rows, own[2:])
        with torch.no_grad(), outputs_of(base.module(UP["bert"].format(3))) as calls:
            base.model(inputs_embeds=torch.cat(parts)[None])
        assert torch.equal(active_neurons(base, adapter)["block.3.ffn"], calls[0][0, 4 if place == "before_gap" else 1] > 0)


def test_words_and_prefixes_are_prompts_too() -> None:
    base = base_of("gpt2")
    words = new_adapter(base, method=HardPrompt(text="a good movie"))
    table = base.module("transformer.wte").weight
    assert isinstance(table, Tensor)
    assert isinstance(words.method, HardPrompt)
    assert torch.equal(prompt_rows(base, words), table[list(words.method.ids)])
    prefix = moved_adapter(base, Prefix(length=3))
    rows = prompt_rows(base, prefix)
    assert rows.shape == (3, 4 * 2 * 48)
    (tensor,) = prefix.state.values()
    assert torch.equal(rows[1], tensor[:, :, :, 1].reshape(-1))
    assert prompt_closeness(base, prefix, prefix).per_token > 0
    with pytest.raises(InputError, match="one is a prompt and the other a prefix"):
        prompt_closeness(base, prefix, words)


def test_what_cannot_be_compared() -> None:
    base = base_of("gpt2")
    with pytest.raises(InputError, match="no virtual tokens"):
        prompt_closeness(base, moved_adapter(base, LoRA(rank=2)), prompt(base, 2))
    with pytest.raises(AdapterFileError, match="fingerprint"):
        prompt_closeness(base, prompt(base, 2), prompt(tiny_base("gpt2", n_layer=2), 2))
