"""FISH Mask against squared gradients that are taken here, one example at a time."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.methods.fish_mask import FishMask, MaskedWeight
from lmtailor.methods.full import Full
from lmtailor.readouts.head import Head
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.store.merge import merge
from tests.edits.worn import Worn, all_apart, apart, base_of, logits, perturbed
from tests.readouts.examples import sentiment_task
from tests.store.adapters import assert_same_state, moved_adapter
from tests.tiny import tiny_inputs


def count(method: FishMask, base: Base) -> int:
    """The share of all parameters but the pooler's."""
    return int(method.fraction * sum(value.numel() for value in base.sites.parameters().values()))


def test_the_count_by_hand() -> None:
    """A share of what full fine-tuning trains; at least one number."""
    base = base_of("bert")
    full = Full().edits(base.sites, None).num_parameters
    assert FishMask().edits(base.sites, None).num_parameters == int(0.005 * full) > 100
    assert FishMask(fraction=1e-9).edits(base.sites, None).num_parameters == 1


def squares_by_hand(base: Base, inputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    """1/N Σ (∇ log p(y | x))² on a copy of the model, one row at a time."""
    model = copy.deepcopy(base.model)
    wanted = {path: model.get_parameter(path).requires_grad_() for path in base.sites.parameters()}
    squares = {path: torch.zeros_like(value) for path, value in wanted.items()}
    for row, target in enumerate(targets):
        scores = model(**{name: value[row : row + 1] for name, value in inputs.items()}).logits[0, -1]
        gradients = torch.autograd.grad(F.cross_entropy(scores[None], target[None]), list(wanted.values()), allow_unused=True)
        for path, gradient in zip(wanted, gradients, strict=True):
            if gradient is not None:
                squares[path] += gradient.square() / len(targets)
    return {path: value.detach() for path, value in squares.items()}


def squares_through_edits(base: Base, edits: Edits, inputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    """The same through the edits that the method wants to be measured."""
    state = {name: value.requires_grad_() for name, value in edits.state().items()}
    squares = {name: torch.zeros_like(value) for name, value in state.items()}
    with attach(base, Worn(edits.with_state(state))):
        for row, target in enumerate(targets):
            scores = logits(base, {name: value[row : row + 1] for name, value in inputs.items()})[0, -1]
            gradients = torch.autograd.grad(F.cross_entropy(scores[None], target[None]), list(state.values()), allow_unused=True)
            for name, gradient in zip(state, gradients, strict=True):
                if gradient is not None:
                    squares[name] += gradient.square() / len(targets)
    return {name: value.detach() for name, value in squares.items()}


@pytest.mark.parametrize("key", ["bert", "llama", "t5"])
def test_it_takes_the_numbers_with_the_largest_empirical_fisher_information(key: str) -> None:
    base, method = base_of(key), FishMask(fraction=0.02)
    inputs, targets = tiny_inputs(base), torch.tensor([11, 12, 13])
    expected = squares_by_hand(base, inputs, targets)
    measured = squares_through_edits(base, method.measured(base.sites), inputs, targets)
    assert {name.removesuffix(".value") for name in measured} == set(expected)
    assert all_apart([measured[f"{path}.value"] for path in expected], list(expected.values())) < 1e-5
    edits = method.chosen(base.sites, measured)
    chosen = {int(place) for place in edits.fixed()["fish.index_k"]}
    flat = torch.cat([value.flatten() for value in expected.values()])
    best = {int(place) for place in flat.argsort(descending=True)[: count(method, base)]}
    assert len(chosen & best) >= len(best) - 2  # neighbours in the order may differ by rounding
    every = torch.cat([value.detach().flatten() for value in base.sites.parameters().values()])
    assert torch.equal(edits.state()["fish.value_k"], every[edits.fixed()["fish.index_k"]])


def test_measuring_leaves_the_base_as_it_is_and_needs_no_copy() -> None:
    base = base_of("llama")
    for path, value in FishMask().measured(base.sites).state().items():
        assert value.data_ptr() == base.model.get_parameter(path.removesuffix(".value")).data_ptr()
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


@pytest.mark.parametrize("key", ["bert", "gpt2", "bart"])
def test_trained_entries_replace_the_base_s(key: str) -> None:
    """The same numbers written into a copy of the model."""
    base, method = base_of(key), FishMask(fraction=0.03)
    edits = perturbed(method.edits(base.sites, generator(0)))
    model = copy.deepcopy(base.model)
    place = 0
    index, values = edits.fixed()["fish.index_k"].tolist(), edits.state()["fish.value_k"]
    entries = dict(zip(index, values, strict=True))
    with torch.no_grad():
        for path in base.sites.parameters():
            flat = model.get_parameter(path).view(-1)
            for number in range(len(flat)):
                if place + number in entries:
                    flat[number] = entries[place + number]
            place += len(flat)
        inputs = tiny_inputs(base)
        with attach(base, Worn(edits)):
            found = logits(base, inputs)
        assert apart(found, model(**inputs).logits) < 1e-6
        assert apart(found, logits(base, inputs)) > 1e-3


def test_parameters_without_an_entry_are_the_base_s_own() -> None:
    base = base_of("llama")
    edits = FishMask(fraction=1e-9).edits(base.sites, generator(3))
    own = dict(base.model.named_parameters())
    with torch.no_grad(), attach(base, Worn(edits)):
        replaced = [path for path, value in base.model.named_parameters() if value is not own[path]]
    assert len(replaced) == 1


def test_positions_before_measuring_are_of_any_share() -> None:
    base = base_of("gpt2")
    for fraction in (0.001, 0.4, 0.9, 1.0):
        index = FishMask(fraction=fraction).edits(base.sites, generator(0)).fixed()["fish.index_k"]
        assert len(index) == count(FishMask(fraction=fraction), base)
        assert bool((index[1:] > index[:-1]).all())
        assert int(index[0]) >= 0


def test_a_fit_measures_and_trains_and_the_folder_holds_indices_and_values(tmp_path: Any) -> None:
    base = base_of("bert")
    adapter = fit(
        base,
        sentiment_task(),
        method=FishMask(fraction=0.01, samples=4),
        readout=Head(),
        training=Training(max_steps=2, batch_size=2),
        seed=1,
    )
    drawn = FishMask(fraction=0.01).edits(base.sites.without_head(), generator(1))
    assert not torch.equal(adapter.fixed["fish.index_k"], drawn.fixed()["fish.index_k"])
    save_adapter(adapter, tmp_path)
    back = load_adapter(tmp_path, base)
    assert_same_state(back, adapter)
    assert torch.equal(back.fixed["fish.index_k"], adapter.fixed["fish.index_k"])
    numbers = adapter.num_parameters - sum(value.numel() for name, value in adapter.state.items() if name.startswith("readout."))
    assert (tmp_path / "adapter.safetensors").stat().st_size < 12 * numbers + 4096


def test_it_merges() -> None:
    base = base_of("bart")
    adapter = moved_adapter(base, FishMask(fraction=0.05))
    inputs = tiny_inputs(base)
    with torch.no_grad():
        with attach(base, adapter):
            wanted = logits(base, inputs)
        assert apart(merge(base, adapter)(**inputs).logits, wanted) < 1e-5


def check(base: Base, edits: Edits) -> None:
    for edit in edits:
        edit.check(base.sites)


@pytest.mark.parametrize(
    "change",
    [lambda i: i * 0 + 3, lambda i: i.flip(0), lambda i: i - 10**6, lambda i: i + 2**60, lambda i: torch.cat((i[:1], i[:-1]))],
    ids=["all the same", "descending", "negative", "beyond", "one twice"],
)
def test_positions_of_a_stranger_are_checked(change: Any) -> None:
    base = base_of("bert")
    edits = FishMask(fraction=0.01).edits(base.sites, generator(0))
    index = edits.fixed()["fish.index_k"].clone()
    index[0] = 0
    check(base, edits.with_fixed({"fish.index_k": index}))
    with pytest.raises(AdapterFileError, match="positions of the trained numbers are not ascending and among the"):
        check(base, edits.with_fixed({"fish.index_k": change(index)}))


def test_squares_that_are_not_finite_are_refused() -> None:
    base = base_of("bert")
    squares = {name: torch.ones_like(value) for name, value in FishMask().measured(base.sites).state().items()}
    next(iter(squares.values())).view(-1)[0] = torch.nan
    with pytest.raises(InputError, match="A squared gradient is not finite"):
        FishMask().chosen(base.sites, squares)


@pytest.mark.parametrize("settings", [{"fraction": 0.0}, {"fraction": 1.1}, {"samples": 0}])
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        FishMask(**settings)


def test_the_start_is_the_base() -> None:
    base = base_of("qwen2")
    edits = FishMask().edits(base.sites, generator(0))
    assert all(isinstance(edit, MaskedWeight) for edit in edits)
    inputs = tiny_inputs(base)
    with torch.no_grad(), attach(base, Worn(edits)):
        found = logits(base, inputs)
    assert torch.equal(found, logits(base, inputs))
