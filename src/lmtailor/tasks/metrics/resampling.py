"""Bootstrap samples, and what is read from statistics on them. Efron & Tibshirani 1993, chapters 13 and 16.

Legend: B resamples, N examples. A resample is a row of counts: how often each example was drawn.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lmtailor.core.errors import InputError

Floats = NDArray[np.float64]

_CELLS = 2_000_000
"""Counts held at a time; bounds the memory (16 MB an array)."""


def draws(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Counts of `resamples` bootstrap samples of n examples, in chunks (b, N)."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS // n)
    for start in range(0, resamples, chunk):
        b = min(chunk, resamples - start)
        drawn = rng.integers(0, n, size=(b, n)) + np.arange(b)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=b * n).reshape(b, n).astype(np.float64)


def interval(values_B: Floats, level: float) -> tuple[float, float]:
    """The percentile interval that holds a share `level` of the values."""
    low, high = np.quantile(values_B, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def two_sided_p(differences_B: Floats) -> float:
    """Twice the smaller share of differences on one side of zero; one is added to both counts so that it is never 0."""
    tail = min(int((differences_B <= 0).sum()), int((differences_B >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(differences_B) + 1))


def check_settings(resamples: int, level: float) -> None:
    """Refuse settings that give no interval.

    Raises:
        InputError: no resample, or a level that is no share.
    """
    if resamples < 1 or not 0 < level < 1:
        raise InputError(f"The bootstrap needs at least one resample and a level between 0 and 1; found {resamples} and {level}.")
