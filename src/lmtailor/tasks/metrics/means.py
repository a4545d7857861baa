"""Numbers that speak of several seeds at once: means with intervals.

Shapes: S seeds, N examples, G groups of examples, B resamples.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmtailor.core.errors import InputError
from lmtailor.tasks.metrics.metric import get_metric
from lmtailor.tasks.metrics.score import Score

Floats = NDArray[np.float64]

_CELLS = 2_000_000
"""Counts held at a time; bounds the memory (16 MB an array)."""


def mean_scores(
    metrics: Sequence[str],
    predicted: ArrayLike,
    reference: ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Score]:
    """The means of metrics over seeds, each with a bootstrap interval over examples and seeds.

    Each resample draws N examples and S seeds, both with replacement, and takes the mean over the drawn seeds on the drawn
    examples. The interval speaks of other test examples and of training again; with one seed, of the examples alone.

    Examples on which all seeds answer alike and that have the same truth cannot be told apart by a metric. They are drawn
    together, which gives the same distribution for much less work.

    Args:
        metrics: their names.
        predicted: one row a seed (S, N).
        reference: the truth (N,); or one row a seed (S, N) where each answers examples of its own, as many as the others. The
            n-th examples of all are then drawn together, which is right for examples that have nothing to do with each other.
        resamples: B.
        level: share of resamples inside the interval.
        seed: of the resamples.

    Raises:
        InputError: no examples, or rows of another length.
    """
    rows_SN = np.atleast_2d(np.asarray(predicted, dtype=np.float64))
    truth = np.atleast_2d(np.asarray(reference, dtype=np.float64))
    n = truth.shape[1]
    if not n or rows_SN.shape[1] != n or len(truth) not in (1, len(rows_SN)):
        raise InputError(f"There are {rows_SN.shape[1]} predictions for {n} examples. Give one each.")
    truth_SN = np.broadcast_to(truth, rows_SN.shape)
    groups, counts_G = np.unique(np.vstack([truth, rows_SN]), axis=1, return_counts=True)
    rows_SG = groups[len(truth) :]
    truth_SG = np.broadcast_to(groups[: len(truth)], rows_SG.shape)
    rng = np.random.default_rng(seed)
    draws: dict[str, list[Floats]] = {metric: [] for metric in metrics}
    for weights_BG in _resamples(counts_G, resamples, rng):
        seeds_SB = rng.integers(0, len(rows_SG), size=(len(rows_SG), len(weights_BG)))
        for metric, kept in draws.items():
            pairs = zip(rows_SG, truth_SG, strict=True)
            values_SB = np.stack([get_metric(metric).weighted(weights_BG, row_G, truth_G) for row_G, truth_G in pairs])
            kept.append(np.take_along_axis(values_SB, seeds_SB, axis=0).mean(axis=0))
    scores = {}
    for metric, kept in draws.items():
        low, high = np.quantile(np.concatenate(kept), [(1 - level) / 2, (1 + level) / 2])
        values = [get_metric(metric).value(row_N, truth_N) for row_N, truth_N in zip(rows_SN, truth_SN, strict=True)]
        value = float(np.mean(values))
        scores[metric] = Score(metric=metric, value=value, n=n, low=float(low), high=float(high))
    return scores


def _resamples(counts_G: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each group of examples is in each of B bootstrap samples, in chunks (b, G)."""
    n = int(counts_G.sum())
    chunk = max(1, _CELLS // len(counts_G))
    for start in range(0, resamples, chunk):
        yield rng.multinomial(n, counts_G / n, size=min(chunk, resamples - start)).astype(np.float64)
