"""Values with percentile bootstrap intervals, and paired bootstrap tests. Efron & Tibshirani 1993, chapters 13 and 16.

Legend: B resamples, N examples, S seeds. A resample is a row of counts: how often each example was drawn.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmtailor.core.errors import InputError
from lmtailor.tasks.example import TaskKind
from lmtailor.tasks.metrics.metric import Metric, get_metric
from lmtailor.tasks.metrics.resampling import check_settings, draws, interval, two_sided_p
from lmtailor.tasks.metrics.score import PairedTest, Score, Scores

Floats = NDArray[np.float64]


def evaluate_predictions(
    metrics: Sequence[str],
    predicted: ArrayLike,
    reference: ArrayLike,
    *,
    kind: TaskKind,
    labels: Sequence[str] = (),
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Scores:
    """The metrics of predictions, each with a percentile bootstrap interval over examples.

    Args:
        metrics: names; their order is the order of the scores.
        predicted: label indices, or numbers in regression (N,).
        reference: the truth, likewise (N,).
        kind: of the task.
        labels: names of the labels, to check the indices against; empty in regression.
        resamples: B. All metrics see the same resamples.
        level: share of resamples inside the interval.
        seed: of the resamples.

    Raises:
        InputError: an unknown metric or one of another kind, no examples, arrays of unequal length, or values that are no
            labels or no finite numbers.
    """
    chosen = [get_metric(name, kind=kind) for name in metrics]
    predicted_N = _checked("predictions", predicted, kind, labels)
    reference_N = _checked("reference", reference, kind, labels)
    _check_lengths(predicted_N, reference_N)
    check_settings(resamples, level)
    drawn: list[list[Floats]] = [[] for _ in chosen]
    for weights_BN in draws(len(reference_N), resamples, seed):
        for values, metric in zip(drawn, chosen, strict=True):
            values.append(metric.weighted(weights_BN, predicted_N, reference_N))
    scores = []
    for metric, values in zip(chosen, drawn, strict=True):
        low, high = interval(np.concatenate(values), level)
        value = metric.value(predicted_N, reference_N)
        scores.append(Score(metric=metric.name, value=value, n=len(reference_N), low=low, high=high))
    return Scores(scores)


def paired_difference(
    metric: str,
    a: ArrayLike,
    b: ArrayLike,
    reference: ArrayLike,
    reference_b: ArrayLike | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """Whether system a differs from system b on the same examples, by a paired bootstrap over examples.

    With several seeds a side, each resample takes the metric's mean over the side's seeds; seeds are not resampled, so
    the interval speaks of the examples, not of training again. The p-value is twice the smaller share of resampled
    differences on one side of zero, with one added to both counts so that it is never 0.

    Args:
        metric: name of the metric.
        a: predictions of the first system (N,), or one row a seed (S, N).
        b: predictions of the second system, likewise; the number of seeds may differ.
        reference: the truth (N,); or one row a seed (S, N) where each seed answers examples of its own.
        reference_b: that of the second system's rows; None: the same.
        resamples: B.
        level: share of resamples inside the interval.
        seed: of the resamples.

    Raises:
        InputError: as `evaluate_predictions`.
    """
    chosen = get_metric(metric)
    sides = [
        _pairs(chosen, side, truth) for side, truth in ((a, reference), (b, reference if reference_b is None else reference_b))
    ]
    count = len(sides[0][0][1])
    for row, truth_N in (*sides[0], *sides[1]):
        _check_lengths(row, truth_N)
        _check_lengths(truth_N, sides[0][0][1])
    check_settings(resamples, level)
    chunks = [
        _mean(chosen, weights_BN, sides[0]) - _mean(chosen, weights_BN, sides[1]) for weights_BN in draws(count, resamples, seed)
    ]
    draws_B = np.concatenate(chunks)
    ones = np.ones((1, count))
    difference = float((_mean(chosen, ones, sides[0]) - _mean(chosen, ones, sides[1]))[0])
    low, high = interval(draws_B, level)
    return PairedTest(metric=metric, difference=difference, low=low, high=high, p=two_sided_p(draws_B), n=count)


def _pairs(metric: Metric, side: ArrayLike, reference: ArrayLike) -> list[tuple[Floats, Floats]]:
    """Each seed's answers with the truth."""
    kind = metric.kinds[0]
    rows = [_checked("predictions", row, kind, ()) for row in np.atleast_2d(np.asarray(side))]
    truth = np.asarray(reference)
    truths = [_checked("reference", one, kind, ()) for one in (truth if truth.ndim == 2 else [truth] * len(rows))]
    if len(truths) != len(rows):
        raise InputError(f"There are {len(rows)} rows of predictions and {len(truths)} of references. Give one each.")
    return list(zip(rows, truths, strict=True))


def _mean(metric: Metric, weights_BN: Floats, side: Sequence[tuple[Floats, Floats]]) -> Floats:
    """The metric's mean over seeds (B,)."""
    values_SB = np.stack([metric.weighted(weights_BN, row, truth_N) for row, truth_N in side])
    means: Floats = values_SB.mean(axis=0)
    return means


def _checked(what: str, values: ArrayLike, kind: TaskKind, labels: Sequence[str]) -> Floats:
    array = np.asarray(values)
    if array.ndim != 1 or not len(array):
        raise InputError(f"The {what} must be a list of at least one value; found an array of shape {array.shape}.")
    if array.dtype.kind not in ("iu" if kind == "classification" else "iuf"):
        asked = "label indices (integers)" if kind == "classification" else "numbers"
        raise InputError(f"The {what} must be {asked}; found values of type {array.dtype}.")
    array_N = array.astype(np.float64)
    if not np.isfinite(array_N).all():
        raise InputError(
            f"{int((~np.isfinite(array_N)).sum())} of {len(array_N)} {what} are not finite. Was the training stable?"
        )
    if labels and not ((array_N >= 0) & (array_N < len(labels))).all():
        raise InputError(
            f"The {what} must be indices of {len(labels)} labels; found {int(array_N.min())} to {int(array_N.max())}."
        )
    return array_N


def _check_lengths(predicted_N: Floats, reference_N: Floats) -> None:
    if len(predicted_N) != len(reference_N):
        raise InputError(f"There are {len(predicted_N)} predictions for {len(reference_N)} examples. Give one each.")
