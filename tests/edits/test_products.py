"""The faster products compute what the plain ones do, and go without a trace."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lmtailor.base.base import Base
from lmtailor.edits import products
from lmtailor.edits.attach import attach
from lmtailor.edits.products import FastProducts, has_fast_products
from lmtailor.methods.full import Full
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.text import Text
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.tasks.task import Task
from tests.tiny import tiny_base

TASK = Task.from_records(
    train=[{"about": "a good movie", "said": "it was very good"}, {"about": "a bad book that is so boring", "said": "no"}],
    kind="generation",
    text="about",
    label="said",
)

needs_wide_vectors = pytest.mark.skipif(not has_fast_products(), reason="this CPU has no AVX-512, or this torch no oneDNN")


def started(base: Base, method: Any) -> Adapter:
    """An adapter none of whose gradients is zero by its start."""
    adapter = new_adapter(base, method=method, readout=Text("about {about}"), task=TASK)
    rng = torch.Generator().manual_seed(0)
    return adapter.with_state(
        {name: (value + 0.05 * torch.randn(value.shape, generator=rng)).requires_grad_() for name, value in adapter.state.items()}
    )


def gradients(base: Base, adapter: Adapter, *, autocast: bool = False) -> dict[str, Tensor]:
    """The loss, and its gradient by every trained tensor."""
    reading = adapter.reading
    assert reading is not None
    batch = reading.collate([item for example in TASK.split("train") for item in reading.items(example)])
    with attach(base, adapter) as attached, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = -attached.scores(0, attached.states(batch.inputs, batch.answer_N), batch).mean()
        found = torch.autograd.grad(loss, list(adapter.state.values()), allow_unused=True, materialize_grads=True)
    return {"loss": loss.detach(), **dict(zip(adapter.state, found, strict=True))}


@needs_wide_vectors
@pytest.mark.parametrize("method", [LoRA(rank=2), Full()], ids=["lora", "full"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_products_and_their_gradients_are_the_plain_ones(family: str, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(family)
    adapter = started(base, method)
    plain, calls, product = gradients(base, adapter), [0], products._product

    def counted(*args: Any) -> Tensor:
        calls[0] += 1
        return product(*args)

    monkeypatch.setattr(products, "_product", counted)
    monkeypatch.setattr(products, "WEIGHTS", 0)
    fast = gradients(base, adapter)
    linear = sum(type(module) in (nn.Linear, Conv1D) for module in base.trunk.modules())
    assert calls[0] > linear
    assert plain.keys() == fast.keys()
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_under_autocast_weights_are_rounded_once_to_the_same_numbers(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(family)
    adapter = started(base, LoRA(rank=2))
    fast = gradients(base, adapter, autocast=True)
    monkeypatch.setattr(FastProducts, "install", lambda self: None)
    plain = gradients(base, adapter, autocast=True)
    assert all(torch.equal(plain[name], fast[name]) for name in plain)


@needs_wide_vectors
def test_logits_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("llama")
    adapter = new_adapter(base, method=LoRA(rank=2))
    ids = torch.tensor([[9, 10, 11]])
    with attach(base, adapter), torch.no_grad():
        plain = base.model(ids).logits
    monkeypatch.setattr(products, "WEIGHTS", 0)
    with attach(base, adapter, fast=True), torch.no_grad():
        torch.testing.assert_close(base.model(ids).logits, plain, rtol=1e-5, atol=1e-5)


@needs_wide_vectors
def test_texts_that_are_read_keep_the_products_of_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("llama")
    ids = torch.tensor([[9, 10, 11]])
    calls, product = [], products._product

    def noted(x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        calls.append(len(x_MI))
        return product(x_MI, weight_OI, bias_O)

    monkeypatch.setattr(products, "_product", noted)
    monkeypatch.setattr(products, "WEIGHTS", 0)
    plain = base.model(ids).logits
    adapter = new_adapter(base, method=LoRA(rank=2))
    with attach(base, adapter):
        cache = base.model(ids, use_cache=True)
        assert not calls
        assert torch.equal(cache.logits, plain)
        base.model(torch.tensor([[12]]), past_key_values=cache.past_key_values)
        assert calls
        assert set(calls) == {1}
        calls.clear()
    with attach(base, adapter, fast=True):
        base.model(ids)
        assert set(calls) == {3}
        calls.clear()
    trained = adapter.with_state({name: value.clone().requires_grad_() for name, value in adapter.state.items()})
    with attach(base, trained):
        base.model(ids).logits.sum().backward()
    assert calls


def test_nothing_is_left_behind() -> None:
    base = tiny_base("llama")
    attached = attach(base, new_adapter(base, method=LoRA(rank=2)))
    with attached:
        assert any("forward" in module.__dict__ for module in base.model.modules())
    assert not any("forward" in module.__dict__ for module in base.model.modules())


def test_a_base_may_ask_for_plain_products() -> None:
    base = replace(tiny_base("llama"), plain_products=True)
    with attach(base, new_adapter(base, method=LoRA(rank=2))):
        assert not any("forward" in module.__dict__ for module in base.model.modules())
