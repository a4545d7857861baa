"""How well probes answered: accuracy (Pearson's r in regression), on the task, on control tasks, and the difference.

Words of a sentence are not independent of each other, so a bootstrap sample draws sentences, and control tasks with them.

Shapes: N items, E examples, M places, K sets of labels (the task's, then those of control tasks), R resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmtailor.tasks.metrics import Score, get_metric
from lmtailor.tasks.metrics.resampling import draws, interval
from lmtailor.tasks.task import TaskKind

Numbers = NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One place."""

    score: Score
    control: Score | None
    """The mean over control tasks; None if there were none."""
    selectivity: Score | None
    """The score on the task less the mean over control tasks."""


def metric_of(kind: TaskKind) -> str:
    """accuracy, or pearson in regression."""
    return "pearson" if kind == "regression" else "accuracy"


def values(metric: str, answers_KMN: Numbers, truth_KN: Numbers) -> Numbers:
    """The metric (K, M) on all items."""
    if metric == "accuracy":
        found: Numbers = (answers_KMN == truth_KN[:, None]).mean(2)
        return found
    one = get_metric(metric)
    return np.array([[one.value(row_N, truth_N) for row_N in rows] for rows, truth_N in zip(answers_KMN, truth_KN, strict=True)])


def measured(metric: str, answers_KMN: Numbers, truth_KN: Numbers, example_N: NDArray[np.int64]) -> list[Measured]:
    """Every place, with intervals that hold 95 % of 1000 bootstrap samples.

    Args:
        metric: accuracy or pearson.
        answers_KMN: label numbers, or values.
        truth_KN: likewise.
        example_N: the example that an item is of.
    """
    sets, places, n = answers_KMN.shape
    plain_KM = values(metric, answers_KMN, truth_KN)
    rng = np.random.default_rng(1)
    own, controls = [], []
    for drawn_RKM in _resampled(metric, answers_KMN, truth_KN, example_N):
        own.append(drawn_RKM[:, 0])
        if sets > 1:
            chosen_RS = rng.integers(1, sets, size=(len(drawn_RKM), sets - 1))
            controls.append(np.take_along_axis(drawn_RKM, chosen_RS[:, :, None], axis=1).mean(1))
    own_RM = np.concatenate(own)
    control_RM = np.concatenate(controls) if controls else None

    def score(name: str, value: float, values_R: Numbers) -> Score:
        low, high = interval(values_R, LEVEL)
        return Score(metric=name, value=float(value), n=n, low=low, high=high)

    found = []
    for place in range(places):
        value, control, selectivity = plain_KM[0, place], None, None
        if control_RM is not None:
            mean = plain_KM[1:, place].mean()
            control = score(metric, mean, control_RM[:, place])
            selectivity = score("selectivity", value - mean, own_RM[:, place] - control_RM[:, place])
        found.append(Measured(score=score(metric, value, own_RM[:, place]), control=control, selectivity=selectivity))
    return found


def _resampled(metric: str, answers_KMN: Numbers, truth_KN: Numbers, example_N: NDArray[np.int64]) -> Iterator[Numbers]:
    """The metric on bootstrap samples of examples, in chunks (r, K, M)."""
    sets, places, _ = answers_KMN.shape
    known_E, of_N = np.unique(example_N, return_inverse=True)
    if metric == "accuracy":
        right_KMN = answers_KMN == truth_KN[:, None]
        right_XE = np.array([np.bincount(of_N, weights=row, minlength=len(known_E)) for row in right_KMN.reshape(-1, len(of_N))])
        count_E = np.bincount(of_N, minlength=len(known_E))
        for weights_RE in draws(len(known_E), RESAMPLES, 0):
            yield (weights_RE @ right_XE.T / (weights_RE @ count_E)[:, None]).reshape(-1, sets, places)
        return
    one = get_metric(metric)
    for weights_RE in draws(len(known_E), RESAMPLES, 0):
        weights_RN = weights_RE[:, of_N]
        pairs = [(row_N, truth_KN[k]) for k in range(sets) for row_N in answers_KMN[k]]
        yield np.stack([one.weighted(weights_RN, *pair) for pair in pairs], axis=1).reshape(-1, sets, places)
