"""Metrics agree with scikit-learn and SciPy; intervals and tests behave as bootstrap theory says."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as reference_metrics

from lmtailor.core.errors import InputError
from lmtailor.tasks.metrics import METRICS, PairedTest, Score, Scores, evaluate_predictions, get_metric, paired_difference

CLASSIFICATION = {
    "accuracy": reference_metrics.accuracy_score,
    "f1": lambda y, p: reference_metrics.f1_score(y, p, labels=[1], average="macro", zero_division=0),
    "macro_f1": lambda y, p: reference_metrics.f1_score(y, p, average="macro"),
    "matthews": reference_metrics.matthews_corrcoef,
}
CORRELATION = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}


def value(metric: str, predicted: object, reference: object) -> float:
    p, y = np.asarray(predicted, dtype=float), np.asarray(reference, dtype=float)
    return METRICS[metric].value(p, y)


def labels(rng: np.random.Generator, n: int, c: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    reference = rng.integers(0, c, n)
    return np.where(rng.random(n) < 0.6, reference, rng.integers(0, c, n)), reference


@pytest.mark.parametrize("metric", CLASSIFICATION)
@pytest.mark.parametrize(("n", "c"), [(1, 2), (7, 3), (500, 2), (500, 3), (900, 40)])
def test_classification_agrees_with_scikit_learn(metric: str, n: int, c: int) -> None:
    predicted, reference = labels(np.random.default_rng(n + c), n, c)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = CLASSIFICATION[metric](reference, predicted)
    assert value(metric, predicted, reference) == pytest.approx(expected, rel=1e-14, abs=1e-15)


def test_matthews_and_f1_where_a_label_is_never_predicted() -> None:
    reference, predicted = [0, 0, 1, 1, 2], [0, 1, 1, 1, 1]
    assert value("macro_f1", predicted, reference) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert value("matthews", predicted, reference) == pytest.approx(reference_metrics.matthews_corrcoef(reference, predicted))


def test_f1_is_of_the_second_label() -> None:
    assert value("f1", [1, 1, 0, 0], [1, 0, 0, 1]) == 0.5
    assert value("f1", [0, 0], [0, 0]) == 0.0


def test_macro_f1_leaves_out_labels_that_are_nowhere() -> None:
    assert value("macro_f1", [0, 2], [0, 2]) == 1.0


@pytest.mark.parametrize("constant", [[1, 1, 1, 1], [0, 0, 0, 0]])
def test_matthews_of_constant_predictions_is_zero(constant: list[int]) -> None:
    assert value("matthews", constant, [0, 1, 1, 0]) == 0.0
    assert value("matthews", [0, 1, 1, 0], constant) == 0.0


@pytest.mark.parametrize("metric", CORRELATION)
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
@pytest.mark.parametrize("ties", [False, True])
def test_correlation_agrees_with_scipy(metric: str, scale: float, ties: bool) -> None:
    rng = np.random.default_rng(3)
    reference = rng.normal(size=400)
    predicted = reference + rng.normal(size=400)
    if ties:
        reference, predicted = np.round(reference), np.round(predicted * 2)
    expected = CORRELATION[metric](predicted, reference).statistic
    assert value(metric, predicted * scale + 3 * scale, reference) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("metric", CORRELATION)
def test_correlation_of_constant_values_is_zero(metric: str) -> None:
    assert value(metric, [2.0, 2.0, 2.0], [1.0, 2.0, 3.0]) == 0.0
    assert value(metric, [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) == 0.0
    assert value(metric, [1.0], [5.0]) == 0.0


def test_pearson_of_rounding_noise_is_zero() -> None:
    noise = 0.1 + np.array([0.0, 1e-17, 0.0, 1.4e-17])
    assert value("pearson", noise, [1.0, 2.0, 3.0, 4.0]) == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_a_weighted_value_is_the_value_of_repeated_examples(metric: str) -> None:
    rng = np.random.default_rng(5)
    predicted, reference = (side.astype(float) for side in labels(rng, 60, 3))
    predicted = predicted + (0.0 if metric in CLASSIFICATION else np.round(rng.normal(size=60), 1))
    weights = rng.multinomial(60, [1 / 60] * 60, size=20)
    found = METRICS[metric].weighted(weights.astype(float), predicted, reference)
    expected = [value(metric, np.repeat(predicted, row), np.repeat(reference, row)) for row in weights]
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_scores_hold_value_n_and_interval() -> None:
    predicted, reference = labels(np.random.default_rng(0), 2000, 3)
    scores = evaluate_predictions(["macro_f1", "accuracy"], predicted, reference, kind="classification", labels=["a", "b", "c"])
    assert list(scores) == ["macro_f1", "accuracy"]
    score = scores["accuracy"]
    assert score.n == 2000
    assert score.value == pytest.approx((predicted == reference).mean())
    half = 1.96 * np.sqrt(score.value * (1 - score.value) / 2000)  # the normal approximation of a binomial's interval
    assert score.low == pytest.approx(score.value - half, abs=0.003)
    assert score.high == pytest.approx(score.value + half, abs=0.003)


def test_interval_of_pearson_is_near_fishers() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=2000)
    predicted = reference + rng.normal(size=2000)
    for metric in ("pearson", "spearman"):
        score = evaluate_predictions([metric], predicted, reference, kind="regression")[metric]
        low, high = np.tanh(np.arctanh(score.value) + np.array([-1.96, 1.96]) / np.sqrt(1997))
        assert score.low == pytest.approx(low, abs=0.01)
        assert score.high == pytest.approx(high, abs=0.01)


def test_seed_level_and_resamples_matter() -> None:
    predicted, reference = labels(np.random.default_rng(0), 200, 2)

    def interval(**options: float) -> tuple[float, float]:
        score = evaluate_predictions(["accuracy"], predicted, reference, kind="classification", **options)["accuracy"]  # type: ignore[arg-type]
        return score.low, score.high

    assert interval(seed=1) == interval(seed=1)
    assert interval(seed=1, resamples=20) != interval(seed=2, resamples=20)
    wide, narrow = interval(level=0.99), interval(level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_a_long_bootstrap_in_chunks_counts_every_resample() -> None:
    n = 30_000  # 66 resamples a chunk
    reference = np.arange(n) % 2
    predicted = np.where(np.arange(n) < n // 4, 1 - reference, reference)
    score = evaluate_predictions(["accuracy"], predicted, reference, kind="classification", resamples=200)["accuracy"]
    assert score.value == 0.75
    assert score.high - score.low == pytest.approx(2 * 1.96 * np.sqrt(0.75 * 0.25 / n), rel=0.25)


@pytest.mark.parametrize(
    ("metrics", "predicted", "reference", "kind", "message"),
    [
        (["acuracy"], [0], [0], "classification", "no metric 'acuracy'. Did you mean accuracy"),
        (["pearson"], [0], [0], "classification", "for regression, not for classification. Use accuracy"),
        (["accuracy"], [], [], "classification", "at least one value"),
        (["accuracy"], [[0]], [0], "classification", r"shape \(1, 1\)"),
        (["accuracy"], [0, 1], [0], "classification", "2 predictions for 1 examples"),
        (["accuracy"], [0.5], [0], "classification", "label indices"),
        (["accuracy"], [2], [0], "classification", "indices of 2 labels; found 2 to 2"),
        (["accuracy"], [0], [-1], "classification", "indices of 2 labels; found -1"),
        (["pearson"], [float("nan"), 1.0], [0.0, 1.0], "regression", "1 of 2 predictions are not finite"),
        (["pearson"], ["a"], [0.0], "regression", "must be numbers"),
    ],
)
def test_bad_input(metrics: list[str], predicted: object, reference: object, kind: str, message: str) -> None:
    names = ["a", "b"] if kind == "classification" else []
    with pytest.raises(InputError, match=message):
        evaluate_predictions(metrics, predicted, reference, kind=kind, labels=names)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"resamples": 0}, {"level": 1.0}])
def test_bad_bootstrap_settings(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="at least one resample and a level"):
        evaluate_predictions(["accuracy"], [0], [0], kind="classification", **options)  # type: ignore[arg-type]


def test_scores_round_trip_through_json() -> None:
    scores = evaluate_predictions(["accuracy", "macro_f1", "matthews"], [0, 1, 1], [0, 1, 0], kind="classification")
    again = Scores.from_mapping(json.loads(json.dumps(scores.to_mapping())))
    assert again == scores
    assert list(again) == list(scores)
    assert again["accuracy"] == Score(
        metric="accuracy", value=2 / 3, n=3, low=scores["accuracy"].low, high=scores["accuracy"].high
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"accuracy": 0.5}, "scores.accuracy must be a table"),
        ({"accuracy": {"value": 0.5, "n": 3, "low": 0.1}}, "scores.accuracy needs high"),
        ({"accuracy": {"value": "0.5", "n": 3, "low": 0.1, "high": 0.2}}, "scores.accuracy.value must be a number"),
    ],
)
def test_scores_of_bad_tables(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Scores.from_mapping(values)


def test_unknown_score_is_a_key_error() -> None:
    scores = Scores([])
    with pytest.raises(KeyError):
        scores["accuracy"]
    assert scores.get("accuracy") is None


def test_get_metric_says_direction_and_kind() -> None:
    assert get_metric("pearson", kind="regression").greater_is_better
    assert {metric.name for metric in METRICS.values() if "classification" in metric.kinds} == set(CLASSIFICATION)


def test_paired_difference_of_equal_systems() -> None:
    predicted, reference = labels(np.random.default_rng(0), 300, 3)
    test = paired_difference("macro_f1", predicted, predicted, reference)
    assert test == PairedTest(metric="macro_f1", difference=0.0, low=0.0, high=0.0, p=1.0, n=300)


def test_paired_difference_finds_what_separate_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    _, reference = labels(rng, 1000, 2)
    b = np.where(rng.random(1000) < 0.7, reference, 1 - reference)
    a = b.copy()
    a[np.flatnonzero(b != reference)[:15]] = reference[np.flatnonzero(b != reference)[:15]]  # b, and 15 errors mended
    scores = [evaluate_predictions(["accuracy"], side, reference, kind="classification")["accuracy"] for side in (a, b)]
    assert scores[0].low < scores[1].high
    test = paired_difference("accuracy", a, b, reference)
    assert test.difference == pytest.approx(0.015)
    assert 0 < test.low <= test.difference <= test.high
    assert test.p == pytest.approx(2 / 1001)
    other = paired_difference("accuracy", b, a, reference)
    assert (other.difference, other.low, other.high, other.p) == pytest.approx((-test.difference, -test.high, -test.low, test.p))


def test_paired_p_value_is_near_the_normal_one() -> None:
    rng = np.random.default_rng(2)
    reference = np.zeros(2000, dtype=int)
    a, b = (rng.random(2000) < 0.30).astype(int), (rng.random(2000) < 0.32).astype(int)
    test = paired_difference("accuracy", a, b, reference, resamples=5000)
    gain = (b - a).astype(float)
    expected = 2 * stats.norm.sf(abs(gain.mean()) / (gain.std() / np.sqrt(2000)))
    assert test.p == pytest.approx(expected, rel=0.15)


def test_paired_difference_over_seeds_is_the_difference_of_means() -> None:
    rng = np.random.default_rng(4)
    _, reference = labels(rng, 400, 3)
    a = np.stack([np.where(rng.random(400) < 0.8, reference, rng.integers(0, 3, 400)) for _ in range(3)])
    b = np.stack([np.where(rng.random(400) < 0.5, reference, rng.integers(0, 3, 400)) for _ in range(2)])
    test = paired_difference("matthews", a, b, reference)
    means = [np.mean([value("matthews", row, reference) for row in side]) for side in (a, b)]
    assert test.difference == pytest.approx(means[0] - means[1])
    assert test.low < test.difference < test.high


def test_paired_difference_in_regression_and_bad_lengths() -> None:
    rng = np.random.default_rng(4)
    reference = rng.normal(size=300)
    good, bad = reference + 0.3 * rng.normal(size=300), reference + 2 * rng.normal(size=300)
    assert paired_difference("spearman", good, bad, reference).low > 0.2
    with pytest.raises(InputError, match="299 predictions for 300 examples"):
        paired_difference("pearson", good[1:], bad, reference)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_classification_agrees_on_anything(pairs: list[tuple[int, int]]) -> None:
    predicted, reference = (list(side) for side in zip(*pairs, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for metric, function in CLASSIFICATION.items():
            assert value(metric, predicted, reference) == pytest.approx(function(reference, predicted), rel=1e-12, abs=1e-12)
