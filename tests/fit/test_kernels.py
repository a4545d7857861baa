"""The faster kernels of a fit compute what the plain ones do, and go without a trace."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lmtailor.base.base import Base
from lmtailor.edits.attach import attach
from lmtailor.fit import kernels
from lmtailor.fit.fit import fit
from lmtailor.fit.kernels import SHORT, fast_kernels, has_fast_products
from lmtailor.fit.training import Training
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
    plain, calls, product = gradients(base, adapter), [0], kernels._product

    def counted(*args: Any) -> Tensor:
        calls[0] += 1
        return product(*args)

    monkeypatch.setattr(kernels, "_product", counted)
    with fast_kernels(base, longest=20, bfloat16=False):
        fast = gradients(base, adapter)
    linear = sum(type(module) in (nn.Linear, Conv1D) for module in base.trunk.modules())
    assert calls[0] > linear
    assert plain.keys() == fast.keys()
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5)


def test_under_autocast_weights_are_rounded_once_to_the_same_numbers() -> None:
    base = tiny_base("llama")
    adapter = started(base, LoRA(rank=2))
    plain = gradients(base, adapter, autocast=True)
    with fast_kernels(base, longest=SHORT + 1, bfloat16=True):
        first, second = (gradients(base, adapter, autocast=True) for _ in range(2))
        rounded = base.model.get_submodule(base.sites["block.0.ffn.up"].module).__dict__["forward"]._rounded
        assert rounded is not None
        assert rounded[2].dtype == torch.bfloat16
    assert all(torch.equal(plain[name], first[name]) and torch.equal(first[name], second[name]) for name in plain)


def test_short_sequences_in_bfloat16_are_attended_to_without_the_fused_kernel() -> None:
    base = tiny_base("llama")
    config = base.trunk.config
    for dtype, longest, autocast, expected in (
        (torch.float32, 20, False, "sdpa"),
        (torch.float32, 20, True, "eager"),
        (torch.bfloat16, SHORT, False, "eager"),
        (torch.bfloat16, SHORT + 1, False, "sdpa"),
    ):
        base.model.to(dtype)  # type: ignore[arg-type]
        with fast_kernels(base, longest=longest, bfloat16=autocast):
            assert config._attn_implementation == expected
        assert config._attn_implementation == "sdpa"


def test_a_base_of_bfloat16_stays_what_it_is_and_what_is_trained_is_float32() -> None:
    base = tiny_base("llama")
    base.model.to(torch.bfloat16)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    training = Training(max_steps=3, batch_size=2, lr=1e-2)
    adapter = fit(base, TASK, method=LoRA(rank=2), readout=Text("about {about}"), training=training)
    assert {value.dtype for value in adapter.state.values()} == {torch.float32}
    assert any(bool(value.any()) for name, value in adapter.state.items() if name.endswith("b_OK"))
    # A bfloat16 number has 8 bits; trained numbers have more, so they were never kept in it.
    assert any(not torch.equal(value, value.bfloat16().float()) for value in adapter.state.values())
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())


def test_nothing_is_left_behind() -> None:
    base = tiny_base("llama")
    with pytest.raises(KeyboardInterrupt), fast_kernels(base, longest=20, bfloat16=True):
        raise KeyboardInterrupt
    assert not any("forward" in module.__dict__ for module in base.model.modules())
    assert base.trunk.config._attn_implementation == "sdpa"
