"""What runs answered: numbers or texts, and how they are measured, averaged over seeds and tested against each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmtailor.core.errors import InputError
from lmtailor.tasks.example import TEXT_KINDS, Example
from lmtailor.tasks.metrics import PairedTest, Score, Scores, evaluate_predictions, paired_difference
from lmtailor.tasks.metrics.means import mean_scores
from lmtailor.tasks.metrics.text.metric import Floats
from lmtailor.tasks.metrics.text.statistics import mean_score, paired_test, score_of, text_statistics
from lmtailor.tasks.metrics.text.table import PERPLEXITY, get_text_metric
from lmtailor.tasks.task import Task

Numbers = NDArray[Any]
"""Label indices (integers), or in regression values."""

ASKED = 600
"""Of a longer input only so many characters are kept beside its answer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What one run answered on one split: labels or numbers."""

    predicted: Numbers
    """(N,)"""
    reference: Numbers
    """The truth (N,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """What one run answered on one split, where answers are texts."""

    asked: tuple[str, ...]
    """The beginnings of the inputs, for people (N)."""
    predicted: tuple[str, ...]
    """(N)"""
    reference: tuple[tuple[str, ...], ...]
    """What would be right (N)."""
    _statistics: dict[str, Floats] = field(default_factory=dict, init=False, repr=False)

    def statistics(self, metric: str) -> Floats:
        """The statistics of a metric (N, K); reckoned once.

        Raises:
            InputError: see `text_statistics`.
        """
        if metric not in self._statistics:
            self._statistics[metric] = text_statistics(metric, self.predicted, self.reference)
        return self._statistics[metric]


AnyAnswers = Answers | Texts


def answers_of(task: Task, split: str, predicted: Sequence[Any] | Numbers) -> AnyAnswers:
    """What was answered to a split, beside the truth.

    Raises:
        DataError: the split is not labelled.
    """
    own = task.split(split)
    if task.kind in TEXT_KINDS:
        asked = tuple(_asked(task, example) for example in own)
        return Texts(asked=asked, predicted=tuple(map(str, predicted)), reference=own.references)
    reference = np.array(own.labels)
    return Answers(predicted=np.asarray(predicted, dtype=reference.dtype), reference=reference)


def measured(task: Task, one: AnyAnswers) -> Scores:
    """The task's metrics of one run's answers on a split."""
    if isinstance(one, Answers):
        return evaluate_predictions(task.metrics, one.predicted, one.reference, kind=task.kind, labels=task.labels)
    return Scores(score_of(metric, one.statistics(metric), get_text_metric(metric).value) for metric in task.metrics)


def means(metrics: Sequence[str], seeds: Sequence[AnyAnswers], *, resamples: int) -> dict[str, Score]:
    """Metrics as means over seeds, with intervals over examples and seeds.

    With few shots and no test split each seed is ranked on a dev set of its own.
    """
    texts = [one for one in seeds if isinstance(one, Texts)]
    if texts:
        return {metric: mean_score(metric, [one.statistics(metric) for one in texts], resamples=resamples) for metric in metrics}
    return mean_scores(metrics, *_stacked(seeds), resamples=resamples)


def difference(metric: str, a: Sequence[AnyAnswers], b: Sequence[AnyAnswers], *, resamples: int) -> PairedTest:
    """The first cell's metric, averaged over its seeds, less the second's; a paired bootstrap over examples."""
    texts = [[one.statistics(metric) for one in side if isinstance(one, Texts)] for side in (a, b)]
    if all(texts):
        return paired_test(metric, *texts, resamples=resamples)
    (a_SN, truth_a), (b_SN, truth_b) = _stacked(a), _stacked(b)
    return paired_difference(metric, a_SN, b_SN, truth_a, truth_b, resamples=resamples)


def check_measurable(task: Task) -> None:
    """See before anything is fitted that answers alone give the metrics.

    Raises:
        InputError: perplexity, which is of a model's probabilities; or what a metric says, such as METEOR where there is no Java.
    """
    if task.kind in TEXT_KINDS and PERPLEXITY in task.metrics:
        raise InputError(
            "A comparison measures what routes answer, and perplexity is of a model's own probabilities. Name other metrics; the "
            "perplexity on dev is in the report's curves, and `lmtailor eval --metric perplexity` measures an adapter's."
        )
    task.try_metrics()


def _stacked(seeds: Sequence[AnyAnswers]) -> tuple[Numbers, Numbers]:
    """Predictions and truth of each seed (S, N)."""
    numbers = [one for one in seeds if isinstance(one, Answers)]
    return np.stack([one.predicted for one in numbers]), np.stack([one.reference for one in numbers])


def _asked(task: Task, example: Example) -> str:
    """An example's input, for people."""
    named = len(task.text) > 1
    text = "\n".join(f"{column}: {example.fields[column]}" if named else example.fields[column] for column in task.text)
    return text if len(text) <= ASKED else f"{text[: ASKED - 1]}…"
