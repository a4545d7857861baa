"""Order of examples, learning rates, optimizer state, caches."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmtailor.fit.batching import epoch_batches, steps_in
from lmtailor.fit.cache import StateCache
from lmtailor.fit.optim import learning_rate, make_optimizer, pack_optimizer, unpack_optimizer
from lmtailor.fit.training import Training
from lmtailor.methods.method import Recipe


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=300), size=st.integers(1, 17), epoch=st.integers(0, 3))
def test_an_epoch_has_every_example_once(lengths: list[int], size: int, epoch: int) -> None:
    batches = epoch_batches(lengths, size, 0, epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= size
    assert len(batches) >= math.ceil(len(lengths) / size)
    assert batches == epoch_batches(lengths, size, 0, epoch)


def test_steps_are_counted_as_they_are_made() -> None:
    for examples in (1, 7, 400, 801, 1601):
        for size, accumulate in ((8, 1), (8, 3), (16, 4)):
            batches = epoch_batches([5] * examples, size, 0, 0)
            assert steps_in(examples, size, accumulate) == math.ceil(len(batches) / accumulate)


def test_batches_have_like_lengths_and_change_with_the_epoch() -> None:
    lengths = torch.randint(1, 100, (800,)).tolist()
    batches = epoch_batches(lengths, 8, 0, 0)
    waste = sum(max(lengths[i] for i in batch) * len(batch) - sum(lengths[i] for i in batch) for batch in batches)
    assert waste < 0.05 * sum(lengths)
    assert batches != epoch_batches(lengths, 8, 0, 1)
    assert batches != epoch_batches(lengths, 8, 1, 0)


def test_schedules_rise_and_fall() -> None:
    def rates(**settings: Any) -> list[float]:
        training = Training(lr=1.0, warmup=0.2, **settings).resolved(Recipe())
        return [learning_rate(step, 10, training) for step in range(10)]

    assert rates(schedule="linear") == pytest.approx([1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert rates(schedule="constant")[2:] == [1.0] * 8
    assert rates(schedule="cosine")[6] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_an_optimizer_goes_on_from_its_packed_state(name: Any) -> None:
    training = Training(lr=0.1, optimizer=name, weight_decay=0.1).resolved(Recipe())

    def steps(count: int, tensors: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        for _ in range(count):
            sum((tensor**2).sum() + tensor.sum() for tensor in tensors.values()).backward()  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()

    def fresh() -> dict[str, torch.Tensor]:
        return {"a": torch.ones(3, 4, requires_grad=True), "b": torch.ones(4, requires_grad=True)}

    whole = fresh()
    steps(5, whole, make_optimizer(whole, training))
    half = fresh()
    optimizer = make_optimizer(half, training)
    steps(2, half, optimizer)
    other = {key: tensor.detach().clone().requires_grad_() for key, tensor in half.items()}
    again = make_optimizer(other, training)
    unpack_optimizer(again, *pack_optimizer(optimizer))
    steps(3, other, again)
    assert all(torch.equal(other[key], whole[key]) for key in whole)


def test_weight_decay_spares_vectors() -> None:
    training = Training(lr=0.1, weight_decay=0.5).resolved(Recipe())
    tensors = {"matrix": torch.ones(2, 2, requires_grad=True), "bias": torch.ones(2, requires_grad=True)}
    for tensor in tensors.values():
        tensor.grad = torch.zeros_like(tensor)
    make_optimizer(tensors, training).step()
    assert torch.equal(tensors["bias"], torch.ones(2))
    assert (tensors["matrix"] < 1).all()


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), memory=st.integers(0, 600))
def test_a_cache_gives_back_what_was_put(lengths: list[int], memory: int) -> None:
    cache = StateCache(lengths, 3, torch.float32, memory=memory, folder=None)
    states = [torch.randn(length, 3) for length in lengths]
    for i in reversed(range(len(lengths))):
        cache.put(i, states[i])
    out = cache.get(range(len(lengths)), max(lengths) + 1)
    for i, length in enumerate(lengths):
        assert torch.equal(out[i, :length], states[i])
        assert not out[i, length:].any()
    assert cache.spilled == max(0, sum(lengths) - memory // 12) * 12
