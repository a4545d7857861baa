"""PreLayer: a hard prompt is its special case, and beyond it the states count, not what the layers made of them."""

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
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import Words
from lmtailor.methods.pre_layer import PreLayer
from lmtailor.methods.soft_prompt import SoftPrompt
from tests.edits.worn import Worn, apart, base_of, generated, inputs_of, left_padded, logits, perturbed, worn
from tests.tiny import kind_of, tiny_inputs

TEXT = PreLayer(length=4, init="text", text="a good movie")


def count(method: PreLayer, base: Base) -> int:
    """L N H, of the only stack or of the encoder."""
    return len(base.stacks[0].blocks) * method.length * base.hidden_size


def test_the_count_by_hand() -> None:
    assert PreLayer(length=3).edits(base_of("gpt2").sites, None).num_parameters == 4 * 3 * 48
    assert PreLayer(length=3).edits(base_of("t5").sites, None).num_parameters == 4 * 3 * 48
    sites = [edit.site for edit in PreLayer().edits(base_of("bart").sites, None)]
    assert sites == ["encoder.embed", "encoder.block.0", "encoder.block.1", "encoder.block.2"]


def started(base: Base, method: PreLayer) -> Edits:
    return method.started(method.edits(base.sites, generator(0)), base, Words(), generator(0))


def adapted(base: Base, edits: Edits, **options: Any) -> Tensor:
    with torch.no_grad(), attach(base, Worn(edits)):
        return logits(base, tiny_inputs(base), **options)


@pytest.mark.parametrize("key", ["gpt2", "llama", "gemma2"])
def test_in_decoders_the_states_of_words_are_those_words_before_the_input(key: str) -> None:
    base = base_of(key)
    ids = base.tokenizer("a good movie", add_special_tokens=False)["input_ids"]
    hard = worn(TokenPrompt(site="embed", length=4, ids=tuple((ids * 2)[:4])))
    with torch.no_grad(), attach(base, hard):
        wanted = logits(base, tiny_inputs(base))
    assert apart(adapted(base, started(base, TEXT)), wanted) < 1e-5
    assert apart(wanted, logits(base, tiny_inputs(base))) > 1e-2


@pytest.mark.parametrize("key", ["gpt2", "llama", "bert", "t5", "modernbert"])
def test_each_block_begins_with_the_trained_states(key: str) -> None:
    """Alone in decoders, in front of every row in encoders, on the right side of shorter prompts."""
    base = base_of(key)
    edits = [perturbed(PreLayer(length=length).edits(base.sites, generator(length)), scale=1.0) for length in (2, 4)]
    inputs = tiny_inputs(base, rows=3)
    stack = base.stacks[0]
    for number in (1, 3):
        block = base.module(stack.blocks[number])
        with torch.no_grad(), inputs_of(block) as seen, attach(base, [Worn(one) for one in edits], [0, None, 1]):
            logits(base, inputs)
        states = [one.items[number].trained()["states_NH"] for one in edits]
        if kind_of(key) == "decoder":
            assert torch.allclose(seen[0][0, :2], states[0])
            assert torch.allclose(seen[0][1, :4], states[1])
            assert seen[1].shape[1] == inputs["input_ids"].shape[1]
        else:
            assert torch.allclose(seen[0][0, 2:4], states[0])
            assert torch.allclose(seen[0][2, :4], states[1])
            assert seen[0].shape[1] == 4 + inputs["input_ids"].shape[1]


def test_what_blocks_make_of_the_tokens_is_thrown_away() -> None:
    """With other states behind a block, what stands before it has no influence on the blocks behind."""
    base = base_of("gpt2")
    edits = perturbed(PreLayer(length=3).edits(base.sites, generator(0)))
    lora = perturbed(LoRA(rank=2, at="block.0.ffn.down").edits(base.sites, generator(1)), scale=1.0)
    with torch.no_grad():
        kept = []
        for one in (edits, Edits((*edits, *lora))):
            with attach(base, Worn(one)), inputs_of(base.module(base.stacks[0].blocks[1])) as seen:
                logits(base, tiny_inputs(base))
            kept.append(seen)
    assert torch.equal(kept[0][0][:, :3], kept[1][0][:, :3]), "the prompt's own pass"
    assert not torch.equal(kept[0][1], kept[1][1]), "the input's"


@pytest.mark.parametrize("key", ["llama", "t5"])
def test_a_cache_changes_nothing(key: str) -> None:
    base = base_of(key)
    edits = perturbed(PreLayer(length=3).edits(base.sites, generator(0)), scale=0.5)
    inputs = left_padded(base, [4, 6])
    with torch.no_grad():
        plain = generated(base, inputs)
        with attach(base, Worn(edits)):
            cached, without = generated(base, inputs), generated(base, inputs, use_cache=False)
    assert torch.equal(cached, without)
    assert not torch.equal(cached, plain)


@pytest.mark.parametrize("key", ["bert", "llama"])
def test_a_hard_prompt_behind_it_stays(key: str) -> None:
    """As a readout's own words do: only the first virtual tokens are replaced."""
    base = base_of(key)
    edits = perturbed(PreLayer(length=2).edits(base.sites, generator(0)), scale=0.5)
    both = Edits((*edits, TokenPrompt(site="embed", length=3, ids=(20, 21, 22))))
    with torch.no_grad(), attach(base, Worn(both)), inputs_of(base.module(base.stacks[0].blocks[1])) as seen:
        logits(base, tiny_inputs(base))
    states = edits.items[1].trained()["states_NH"]
    assert torch.allclose(seen[0][0, :2], states)
    assert not torch.allclose(seen[0][0, 2:4], states)


def test_in_a_union_it_stands_first() -> None:
    base = base_of("bert")
    edits = perturbed((PreLayer(length=2) + SoftPrompt(length=3)).edits(base.sites, generator(0)))
    with torch.no_grad(), attach(base, Worn(edits)), inputs_of(base.module(base.stacks[0].blocks[1])) as seen:
        logits(base, tiny_inputs(base))
    assert torch.allclose(seen[0][0, :2], edits.items[1].trained()["states_NH"])
    with pytest.raises(UnsupportedError, match="Write PreLayer first"):
        (SoftPrompt(length=3) + PreLayer(length=2)).edits(base.sites, None)


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="length is 0; a prefix needs at least 1 virtual token"):
        PreLayer(length=0)
    with pytest.raises(InputError, match="init='text' needs `text`"):
        PreLayer(init="text")
