"""Gradient checkpointing: the same gradients, or an error."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmtailor.base.base import Base
from lmtailor.core.errors import StateError, UnsupportedError
from lmtailor.edits.attach import attach
from tests.edits.worn import Given, Worn, all_apart, backward, logits, noise, wear, worn
from tests.tiny import FAMILIES, tiny_base, tiny_inputs

CHECKPOINTED = [key for key in FAMILIES if key != "albert"]
"""ALBERT's transformers class cannot be checkpointed."""


def training(key: str, *, checkpointing: bool, **overrides: Any) -> Base:
    """A base in training mode; transformers checkpoints blocks in no other."""
    base = tiny_base(key, **overrides)
    base.model.train()
    for module in base.model.modules():
        if isinstance(module, PreTrainedModel):
            module.config.use_cache = False
    if checkpointing:
        base.model.activation_checkpointing_enable()
    return base


def everything(base: Base) -> Worn:
    """Edits of every kind that shares a batch; where the stack is causal, the prompt's run passes through the blocks too."""
    embed = base.sites["encoder.embed" if base.kind == "encoder-decoder" else "embed"]
    prompt = Given(site=embed.name, length=4, prompt_NH=noise(4, embed.width).requires_grad_())
    return worn(
        *wear(base, "lora", grad=True, rank=2).edits,
        *wear(base, "houlsby", grad=True, bottleneck=3).edits,
        *wear(base, "bitfit", grad=True, add_missing=True).edits,
        *wear(base, "prefix", grad=True, length=3).edits,
        prompt,
    )


def gradients(base: Base, adapter: Worn, batches: list[dict[str, Tensor]]) -> list[Tensor]:
    """Of one loss over all batches: every forward comes before the backward."""
    tensors = list(adapter.edits.state().values())
    with attach(base, adapter):
        loss = torch.stack([logits(base, inputs).square().mean() for inputs in batches]).sum()
        return list(torch.autograd.grad(loss, tensors))


def calls_inside(base: Base) -> list[int]:
    """Counts the calls of a module in the first block of the stack that is read."""
    calls: list[int] = []
    site = next(site for site in base.sites.values() if site.stack == base.read.name and site.name.endswith("block.0.attn.q"))
    base.module(site.module).register_forward_pre_hook(lambda *args: calls.append(1))
    return calls


@pytest.mark.parametrize("key", CHECKPOINTED)
def test_gradients_do_not_depend_on_checkpointing(key: str) -> None:
    plain, checkpointed = training(key, checkpointing=False), training(key, checkpointing=True)
    adapter, batches = everything(plain), [tiny_inputs(plain)]
    wanted = gradients(plain, adapter, batches)
    once, again = calls_inside(plain), calls_inside(checkpointed)
    found = gradients(checkpointed, adapter, batches)
    gradients(plain, adapter, batches)
    assert len(again) == len(once) + 1, "nothing was checkpointed, or the prompt's own run was"
    assert all_apart(found, wanted) < 1e-4


@pytest.mark.parametrize("key", ["mistral", "gemma3_text", "llama", "t5", "bart"])
def test_several_forwards_before_one_backward(key: str) -> None:
    """Blocks of the first batch run again when attention knows the positions of the second."""
    plain, checkpointed = training(key, checkpointing=False), training(key, checkpointing=True)
    batches = [tiny_inputs(plain, rows=2, tokens=7), tiny_inputs(plain, rows=3, tokens=9, seed=1)]
    adapter = wear(plain, "prefix", grad=True, length=9)
    assert all_apart(gradients(checkpointed, adapter, batches), gradients(plain, adapter, batches)) < 1e-4


def test_positions_of_each_forward_are_its_own() -> None:
    """Two batches of one shape, of which one is padded on the left: only what windows see differs."""
    plain, checkpointed = training("mistral", checkpointing=False), training("mistral", checkpointing=True)
    one, two = tiny_inputs(plain, rows=2, tokens=9), tiny_inputs(plain, rows=2, tokens=9, seed=1)
    one["attention_mask"] = torch.ones_like(one["attention_mask"])
    two["attention_mask"] = torch.tensor([[0] * 5 + [1] * 4] * 2)
    for inputs in (one, two):
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    adapter = wear(plain, "prefix", grad=True, length=9)
    assert all_apart(gradients(checkpointed, adapter, [one, two]), gradients(plain, adapter, [one, two])) < 1e-4


@pytest.mark.parametrize("name", ["lora", "prefix"])
def test_backward_after_detaching_raises(name: str) -> None:
    """It would compute the gradient of the plain base."""
    base = training("llama", checkpointing=True)
    with attach(base, wear(base, name, grad=True)):
        loss = logits(base, tiny_inputs(base)).square().mean()
    with pytest.raises(StateError, match="Call backward inside"):
        backward(loss)


def test_backward_under_another_attach_raises() -> None:
    base = training("llama", checkpointing=True)
    with attach(base, wear(base, "lora", grad=True)):
        loss = logits(base, tiny_inputs(base)).square().mean()
    with attach(base, wear(base, "lora", 1, grad=True)), pytest.raises(StateError, match="Call backward inside"):
        backward(loss)


def test_without_checkpointing_a_later_backward_is_right() -> None:
    base = training("llama", checkpointing=False)
    adapter, inputs = wear(base, "lora", grad=True), tiny_inputs(base)
    wanted = gradients(base, adapter, [inputs])
    with attach(base, adapter):
        loss = logits(base, inputs).square().mean()
    assert all_apart(torch.autograd.grad(loss, list(adapter.edits.state().values())), wanted) < 1e-6


def test_reentrant_checkpointing_is_refused() -> None:
    base = training("llama", checkpointing=False)
    base.model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(UnsupportedError, match="Reentrant"), attach(base, wear(base, "lora")):
        pass
    base.model.activation_checkpointing_enable({"use_reentrant": False})
    with attach(base, wear(base, "lora")):
        pass


def test_the_checkpointing_function_is_put_back() -> None:
    base = training("llama", checkpointing=True)
    blocks = [base.module(path) for path in base.read.blocks]
    before = [block._gradient_checkpointing_func for block in blocks]
    with attach(base, wear(base, "lora", grad=True)):
        assert all(block._gradient_checkpointing_func is not function for block, function in zip(blocks, before, strict=True))
    assert all(block._gradient_checkpointing_func is function for block, function in zip(blocks, before, strict=True))
