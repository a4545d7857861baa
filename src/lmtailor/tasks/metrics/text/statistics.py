"""Statistics of examples, and what several runs' statistics say at once: means over seeds, and paired tests.

Statistics are reckoned once; every resample is then a product of matrices (see `metric`). So whoever compares many systems keeps
them.

Legend: B resamples, N examples, K statistics, S seeds.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from lmtailor.core.errors import InputError
from lmtailor.tasks.metrics.resampling import check_settings, draws, interval, two_sided_p
from lmtailor.tasks.metrics.score import PairedTest, Score
from lmtailor.tasks.metrics.text.metric import ExampleError, Floats, References, TextMetric
from lmtailor.tasks.metrics.text.table import get_text_metric

Tell = Callable[[str, int, int], None]
"""(metric, examples done, of how many)."""

_SEEDS = 1
"""Names the draws of seeds beside those of examples."""


def text_statistics(metric: str, predictions: Sequence[str], references: References = (), *, tell: Tell | None = None) -> Floats:
    """The statistics of all examples (N, K).

    Args:
        metric: name of the metric.
        predictions: one text an example (N,).
        references: for each example at least one text; none at all if the metric needs none.
        tell: told of progress.

    Raises:
        InputError: an unknown metric, no examples, counts that differ, an example without references, an empty reference, or
            what the metric itself refuses.
    """
    chosen = get_text_metric(metric)
    rows = chosen.rows(predictions, checked([chosen], predictions, references))
    return np.array(list(_told(rows, metric, len(predictions), tell)), dtype=np.float64)


def score_of(
    name: str,
    rows_NK: Floats,
    value: Callable[[Floats], Floats],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Score:
    """The value of statistics, with a bootstrap interval over examples.

    Args:
        name: of the metric.
        rows_NK: the statistics.
        value: sums (B, K) -> values (B,).
        resamples: B.
        level: share of resamples inside the interval.
        seed: of the resamples.

    Raises:
        InputError: settings that give no interval.
    """
    check_settings(resamples, level)
    drawn_B = np.concatenate([value(weights_BN @ rows_NK) for weights_BN in draws(len(rows_NK), resamples, seed)])
    low, high = interval(drawn_B, level)
    whole = float(value(rows_NK.sum(axis=0, keepdims=True))[0])
    return Score(metric=name, value=whole, n=len(rows_NK), low=low, high=high)


def mean_score(metric: str, seeds: Sequence[Floats], *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Score:
    """The mean of a metric over seeds, with a bootstrap interval over examples and seeds; as `mean_scores` of labels.

    Each resample draws N examples and S seeds, both with replacement, and takes the mean over the drawn seeds on the drawn
    examples.

    Args:
        metric: its name.
        seeds: for each seed its statistics (N, K). Seeds that answered examples of their own, as many as the others, may stand
            together: the n-th examples of all are drawn together.
        resamples: B.
        level: share of resamples inside the interval.
        seed: of the resamples.

    Raises:
        InputError: no seeds, seeds with other numbers of examples, or settings that give no interval.
    """
    chosen, n = get_text_metric(metric), _count(seeds)
    check_settings(resamples, level)
    rng = np.random.default_rng([seed, _SEEDS])
    kept = []
    for weights_BN in draws(n, resamples, seed):
        values_SB = np.stack([chosen.value(weights_BN @ rows_NK) for rows_NK in seeds])
        drawn_SB = rng.integers(0, len(seeds), size=values_SB.shape)
        kept.append(np.take_along_axis(values_SB, drawn_SB, axis=0).mean(axis=0))
    low, high = interval(np.concatenate(kept), level)
    return Score(metric=metric, value=float(_mean(chosen, np.ones((1, n)), seeds)[0]), n=n, low=low, high=high)


def paired_test(
    metric: str, a: Sequence[Floats], b: Sequence[Floats], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> PairedTest:
    """Whether system a differs from system b on the same examples, by a paired bootstrap over examples. Koehn 2004.

    Each resample takes the metric's mean over a side's seeds; seeds are not resampled.

    Args:
        metric: name of the metric.
        a: for each seed of the first system its statistics (N, K).
        b: those of the second; the number of seeds may differ.
        resamples: B.
        level: share of resamples inside the interval.
        seed: of the resamples.

    Raises:
        InputError: a side without seeds, other numbers of examples, or settings that give no interval.
    """
    chosen, n = get_text_metric(metric), _count((*a, *b))
    check_settings(resamples, level)
    if not a or not b:
        raise InputError("A paired test needs at least one list of predictions for each system.")
    chunks = [_mean(chosen, weights_BN, a) - _mean(chosen, weights_BN, b) for weights_BN in draws(n, resamples, seed)]
    drawn_B = np.concatenate(chunks)
    low, high = interval(drawn_B, level)
    ones = np.ones((1, n))
    difference = float((_mean(chosen, ones, a) - _mean(chosen, ones, b))[0])
    return PairedTest(metric=metric, difference=difference, low=low, high=high, p=two_sided_p(drawn_B), n=n)


def checked(metrics: Sequence[TextMetric], predictions: Sequence[str], references: References) -> References:
    """The references; empty lists where none are given and none needed.

    Raises:
        InputError: no predictions, counts that differ, or an example without the references that a metric needs.
    """
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
                raise ExampleError(number, f"has {found}, but {needing[0]} needs texts to compare with.")
    return references


def _mean(metric: TextMetric, weights_BN: Floats, seeds: Sequence[Floats]) -> Floats:
    """The metric's mean over seeds (B,)."""
    means: Floats = np.stack([metric.value(weights_BN @ rows_NK) for rows_NK in seeds]).mean(axis=0)
    return means


def _count(seeds: Sequence[Floats]) -> int:
    """How many examples all of them have."""
    counts = {len(rows_NK) for rows_NK in seeds}
    if len(counts) != 1:
        raise InputError(
            "The systems have different numbers of predictions. A paired test needs them on the same examples."
            if counts
            else "There are no predictions. Give at least one."
        )
    return counts.pop()


def _told(rows: Iterable[Sequence[float]], name: str, total: int, tell: Tell | None) -> Iterable[Sequence[float]]:
    for done, row in enumerate(rows, start=1):
        yield row
        if tell is not None:
            tell(name, done, total)
