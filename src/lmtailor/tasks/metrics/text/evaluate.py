"""Text metrics of predictions, with bootstrap intervals and paired tests.

Legend: B resamples, N examples, K statistics, S seeds.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from lmtailor.core.errors import InputError
from lmtailor.tasks.metrics.resampling import check_settings, draws, interval, two_sided_p
from lmtailor.tasks.metrics.score import PairedTest, Score, Scores
from lmtailor.tasks.metrics.text.metric import Floats, References, TextMetric
from lmtailor.tasks.metrics.text.table import get_text_metric

Tell = Callable[[str, int, int], None]
"""(metric, examples done, of how many)."""


def evaluate_texts(
    metrics: Sequence[str],
    predictions: Sequence[str],
    references: References = (),
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    tell: Tell | None = None,
) -> Scores:
    """The text metrics of predictions, each with a percentile bootstrap interval over examples.

    What a metric learns from all references (the information of n-grams in NIST, document frequencies in CIDEr) is held fixed in
    bootstrap samples: they are other outputs, not another corpus.

    Args:
        metrics: names; their order is the order of the scores.
        predictions: one text an example (N,). An empty one counts as the reference programs count it: it matches nothing.
        references: for each example at least one text; none at all if no metric needs them.
        resamples: B. All metrics see the same resamples.
        level: share of resamples inside the interval.
        seed: of the resamples.
        tell: told of progress.

    Raises:
        InputError: an unknown metric, no examples, counts that differ, an example without references, an empty reference, or
            what a metric itself refuses.
    """
    chosen = [get_text_metric(name) for name in metrics]
    own = _checked(chosen, predictions, references)
    check_settings(resamples, level)
    scores = []
    for metric in chosen:
        rows_NK = _statistics(metric, predictions, own, tell)
        scores.append(_score(metric.name, rows_NK, metric.value, resamples=resamples, level=level, seed=seed))
    return Scores(scores)


def paired_text_difference(
    metric: str,
    a: Sequence[Sequence[str]],
    b: Sequence[Sequence[str]],
    references: References = (),
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """Whether system a differs from system b on the same examples, by a paired bootstrap over examples. Koehn 2004.

    As in `paired_difference`, each resample takes the metric's mean over a side's seeds.

    Args:
        metric: name of the metric.
        a: texts of the first system, one list a seed (S, N).
        b: texts of the second system, likewise; the number of seeds may differ.
        references: as for `evaluate_texts`.
        resamples: B.
        level: share of resamples inside the interval.
        seed: of the resamples.

    Raises:
        InputError: as `evaluate_texts`; a side without seeds.
    """
    chosen = get_text_metric(metric)
    check_settings(resamples, level)
    if not a or not b:
        raise InputError("A paired test needs at least one list of predictions for each system.")
    if len({len(texts) for texts in (*a, *b)}) > 1:
        raise InputError("The systems have different numbers of predictions. A paired test needs them on the same examples.")
    sides = [[_statistics(chosen, texts, _checked([chosen], texts, references), None) for texts in side] for side in (a, b)]
    n = len(a[0])
    chunks = [
        _mean(chosen, weights_BN, sides[0]) - _mean(chosen, weights_BN, sides[1]) for weights_BN in draws(n, resamples, seed)
    ]
    drawn_B = np.concatenate(chunks)
    ones = np.ones((1, n))
    low, high = interval(drawn_B, level)
    difference = float((_mean(chosen, ones, sides[0]) - _mean(chosen, ones, sides[1]))[0])
    return PairedTest(metric=metric, difference=difference, low=low, high=high, p=two_sided_p(drawn_B), n=n)


def perplexity(log_p: ArrayLike, tokens: ArrayLike, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Score:
    """Perplexity of texts under a model: exp(-sum of log p / sum of tokens). Smaller is better.

    Args:
        log_p: the summed log-probability of each text, in nats (N,).
        tokens: how many tokens of each were predicted (N,). Bytes or words instead give perplexity by byte or word.
        resamples: B.
        level: share of resamples inside the interval.
        seed: of the resamples.

    Raises:
        InputError: no texts, unequal lengths, numbers that are not finite, or a text with fewer than one token.
    """
    check_settings(resamples, level)
    log_p_N, tokens_N = np.asarray(log_p, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if log_p_N.ndim != 1 or log_p_N.shape != tokens_N.shape or not len(log_p_N):
        raise InputError(f"Perplexity needs a log p and a token count a text; found shapes {log_p_N.shape} and {tokens_N.shape}.")
    if not np.isfinite(log_p_N).all() or not np.isfinite(tokens_N).all() or tokens_N.min() < 1:
        raise InputError("Perplexity needs finite log p and at least one token a text. Leave empty texts out.")
    rows_N2 = np.stack([log_p_N, tokens_N], axis=1)
    return _score("perplexity", rows_N2, _perplexity, resamples=resamples, level=level, seed=seed)


def _perplexity(sums_B2: Floats) -> Floats:
    values: Floats = np.exp(-sums_B2[:, 0] / sums_B2[:, 1])
    return values


def _score(name: str, rows_NK: Floats, value: Callable[[Floats], Floats], *, resamples: int, level: float, seed: int) -> Score:
    drawn_B = np.concatenate([value(weights_BN @ rows_NK) for weights_BN in draws(len(rows_NK), resamples, seed)])
    low, high = interval(drawn_B, level)
    whole = float(value(rows_NK.sum(axis=0, keepdims=True))[0])
    return Score(metric=name, value=whole, n=len(rows_NK), low=low, high=high)


def _mean(metric: TextMetric, weights_BN: Floats, seeds: Sequence[Floats]) -> Floats:
    """The metric's mean over seeds (B,)."""
    means: Floats = np.stack([metric.value(weights_BN @ rows_NK) for rows_NK in seeds]).mean(axis=0)
    return means


def _statistics(metric: TextMetric, predictions: Sequence[str], references: References, tell: Tell | None) -> Floats:
    """The statistics of all examples (N, K)."""
    return np.array(list(_told(metric.rows(predictions, references), metric.name, len(predictions), tell)), dtype=np.float64)


def _told(rows: Iterable[Sequence[float]], name: str, total: int, tell: Tell | None) -> Iterable[Sequence[float]]:
    for done, row in enumerate(rows, start=1):
        yield row
        if tell is not None:
            tell(name, done, total)


def _checked(metrics: Sequence[TextMetric], predictions: Sequence[str], references: References) -> References:
    """The references; empty lists where none are given and none needed."""
    if not predictions:
        raise InputError("There are no predictions. Give at least one.")
    needing = [metric.name for metric in metrics if metric.needs_references]
    if not references and not needing:
        return [()] * len(predictions)
    if len(references) != len(predictions):
        raise InputError(
            f"There are {len(predictions)} predictions, but references for {len(references)} examples. Give each its own."
        )
    if needing:
        for number, own in enumerate(references, start=1):
            if not own or not all(reference.strip() for reference in own):
                found = "no reference" if not own else "an empty reference"
                raise InputError(f"Example {number} has {found}, but {needing[0]} needs texts to compare with.")
    return references
