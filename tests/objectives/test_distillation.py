"""Distillation against its formula in NumPy."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from lmtailor.core.errors import InputError
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.objectives.distillation import Distillation
from lmtailor.objectives.objective import Objective
from lmtailor.objectives.supervised import Supervised


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_it_is_the_formula(temperature: float) -> None:
    scores, logits = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    p, q = softmax(scores.numpy() / temperature, 1), softmax(logits.numpy() / temperature, 1)
    losses = Distillation(temperature=temperature).losses(scores, logits.softmax(1), "classification")
    np.testing.assert_allclose(losses.numpy(), temperature**2 * (q * np.log(q / p)).sum(1), rtol=1e-9)


def test_of_hard_labels_at_temperature_1_it_is_the_cross_entropy() -> None:
    scores, labels = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 2, 1, 1])
    soft = torch.nn.functional.one_hot(labels, 3).float()
    losses = Distillation(temperature=1.0).losses(scores, soft, "classification")
    torch.testing.assert_close(losses, Supervised().losses(scores, labels, "classification"))
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    assert bool(gradient.isfinite().all())


def test_the_gradient_keeps_its_size_at_high_temperatures() -> None:
    scores, soft = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.rand(6, 4, dtype=torch.float64)
    soft = soft / soft.sum(1, keepdim=True)
    sizes = []
    for temperature in (20.0, 40.0):
        losses = Distillation(temperature=temperature).losses(scores, soft, "classification")
        sizes.append(float(torch.autograd.grad(losses.sum(), scores)[0].norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def test_objectives_are_found_by_name_and_stored_by_it() -> None:
    assert {name: one.__name__ for name, one in Objective.variants().items()} == {
        "distillation": "Distillation",
        "supervised": "Supervised",
    }
    assert Distillation.variant_name() == "distillation"
    assert from_mapping(Distillation, to_mapping(Distillation(temperature=3.0))) == Distillation(temperature=3.0)


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(InputError, match="regression has no labels"):
        Distillation().losses(torch.zeros(1, 1), torch.ones(1, 1), "regression")
    with pytest.raises(InputError, match="greater than 0"):
        Distillation(temperature=0.0)
