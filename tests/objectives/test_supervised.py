"""Losses against their formulas in NumPy."""

import numpy as np
import pytest
import torch

from lmtailor.core.errors import InputError
from lmtailor.objectives.supervised import Supervised


def test_cross_entropy_with_smoothing_is_the_formula() -> None:
    scores, labels, e = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0]), 0.2
    logs = scores.numpy() - np.log(np.exp(scores.numpy()).sum(1, keepdims=True))
    target = np.full((5, 3), e / 3) + (1 - e) * np.eye(3)[labels.numpy()]
    losses = Supervised(label_smoothing=e).losses(scores, labels, "classification")
    np.testing.assert_allclose(losses.numpy(), -(target * logs).sum(1), rtol=1e-12)


def test_regression_is_the_squared_error_of_each_example() -> None:
    scores, labels = torch.tensor([[1.0], [3.0]]), torch.tensor([0.5, -1.0])
    assert Supervised().losses(scores, labels, "regression").tolist() == [0.25, 16.0]


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(InputError, match="no meaning in regression"):
        Supervised(label_smoothing=0.1).losses(torch.zeros(1, 1), torch.zeros(1), "regression")
    with pytest.raises(InputError, match="less than 1"):
        Supervised(label_smoothing=1.0)
