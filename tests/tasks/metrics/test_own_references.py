"""Seeds that answer examples of their own: each is measured on its own truth."""

import numpy as np
import pytest

from lmtailor.core.errors import InputError
from lmtailor.tasks.metrics.bootstrap import paired_difference
from lmtailor.tasks.metrics.means import mean_scores

TRUTH = np.array([[0, 1, 1, 0, 1, 0, 0, 1], [1, 1, 0, 0, 0, 1, 0, 1]])
ONE = np.array([[0, 1, 1, 0, 1, 0, 1, 0], [1, 1, 0, 0, 0, 1, 1, 1]])
OTHER = np.array([[0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]])


def test_the_mean_is_that_of_each_seed_on_its_own_truth() -> None:
    score = mean_scores(["accuracy"], ONE, TRUTH, resamples=200)["accuracy"]
    assert score.value == pytest.approx((6 / 8 + 7 / 8) / 2)
    assert score.low < score.value < score.high
    assert mean_scores(["accuracy"], ONE, TRUTH[0], resamples=200)["accuracy"].value == pytest.approx((6 / 8 + 3 / 8) / 2)


def test_one_truth_for_all_is_the_same_as_a_copy_for_each() -> None:
    shared, copied = TRUTH[0], np.stack([TRUTH[0]] * 2)
    assert mean_scores(["macro_f1"], ONE, shared, resamples=100) == mean_scores(["macro_f1"], ONE, copied, resamples=100)
    a = paired_difference("accuracy", ONE, OTHER, shared, resamples=100)
    assert a == paired_difference("accuracy", ONE, OTHER, copied, copied, resamples=100)


def test_a_difference_is_that_of_the_means() -> None:
    test = paired_difference("accuracy", ONE, OTHER[:1], TRUTH, TRUTH[:1], resamples=200)
    assert test.difference == pytest.approx((6 / 8 + 7 / 8) / 2 - 4 / 8)


def test_rows_and_truths_go_together() -> None:
    with pytest.raises(InputError, match="2 rows of predictions and 1 of references"):
        paired_difference("accuracy", ONE, ONE, TRUTH[:1], resamples=10)
    with pytest.raises(InputError, match="Give one each"):
        mean_scores(["accuracy"], ONE, np.stack([TRUTH[0]] * 3), resamples=10)
