"""How varied texts are: the share of different n-grams among all of them. Li et al. 2016 (distinct-1, distinct-2), section 5.

Words are what stands between spaces, in lower case. Long corpora repeat themselves more, so compare texts of like number and
length.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from lmtailor.tasks.metrics.text.metric import References, Rows, TextMetric, mean


def _rows(size: int) -> Rows:
    """Rows whose mean is the value, and whose spread is that of the value."""

    def rows(predictions: Sequence[str], references: References) -> Iterator[Sequence[float]]:
        del references
        own = [Counter(_ngrams(text.lower().split(), size)) for text in predictions]
        yield from ((float(value), 1.0) for value in _pseudo_values(own))

    return rows


def _pseudo_values(own: Sequence[Counter[tuple[str, ...]]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """For each text a number; their mean is the share of different n-grams (N,).

    A bootstrap sample holds texts twice and so has fewer different n-grams by its nature: its share says nothing of the value's
    spread. What a text adds is measured by leaving it out (the jackknife; Efron & Tibshirani 1993, chapter 11), and the sum over
    drawn texts of what they add stands for the share of the sample. The jackknife's correction of bias is left out, so that the
    mean is the share itself.
    """
    n = len(own)
    holders = Counter(ngram for each in own for ngram in each)
    alone_N = np.array([sum(holders[ngram] == 1 for ngram in each) for each in own], dtype=np.float64)
    total_N = np.array([each.total() for each in own], dtype=np.float64)
    kinds, total = float(len(holders)), float(total_N.sum())
    value = kinds / total if total else 0.0
    rest_N = total - total_N
    without_N = np.divide(kinds - alone_N, rest_N, out=np.full(n, value), where=rest_N > 0)
    pseudo_N = n * value - (n - 1) * without_N
    shifted: np.ndarray[tuple[int], np.dtype[np.float64]] = pseudo_N - pseudo_N.mean() + value
    return shifted


def _ngrams(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + size]) for start in range(len(words) - size + 1))


METRICS = tuple(
    TextMetric(
        name=f"distinct_{size}",
        about=f"Share of different {size}-grams among all {size}-grams of the predictions.",
        rows=_rows(size),
        value=mean,
        needs_references=False,
    )
    for size in (1, 2)
)
