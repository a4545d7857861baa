"""Text metrics of predictions, with bootstrap intervals and paired tests.

Legend: B resamples, N examples, K statistics, S seeds.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from lmtailor.core.errors import InputError
from lmtailor.tasks.metrics.resampling import check_settings
from lmtailor.tasks.metrics.score import PairedTest, Score, Scores
from lmtailor.tasks.metrics.text.metric import Floats, References
from lmtailor.tasks.metrics.text.statistics import Tell, checked, paired_test, score_of, text_statistics
from lmtailor.tasks.metrics.text.table import get_text_metric


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
    own = checked(chosen, predictions, references)
    check_settings(resamples, level)
    scores = []
    for metric in chosen:
        rows_NK = text_statistics(metric.name, predictions, own, tell=tell)
        scores.append(score_of(metric.name, rows_NK, metric.value, resamples=resamples, level=level, seed=seed))
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
    check_settings(resamples, level)
    if not a or not b:
        raise InputError("A paired test needs at least one list of predictions for each system.")
    if len({len(texts) for texts in (*a, *b)}) > 1:
        raise InputError("The systems have different numbers of predictions. A paired test needs them on the same examples.")
    sides = [[text_statistics(metric, texts, references) for texts in side] for side in (a, b)]
    return paired_test(metric, *sides, resamples=resamples, level=level, seed=seed)


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
    return score_of("perplexity", rows_N2, _perplexity, resamples=resamples, level=level, seed=seed)


def _perplexity(sums_B2: Floats) -> Floats:
    values: Floats = np.exp(-sums_B2[:, 0] / sums_B2[:, 1])
    return values
