"""Exact match and word F1 of short answers, as SQuAD's evaluation of version 1.1 gives them. Rajpurkar et al. 2016, section 6.1.

Both compare texts without case, punctuation, articles and surplus space, and take the best reference. Values are shares, where
the program prints percent.
"""

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence

from lmtailor.tasks.metrics.text.metric import References, TextMetric, mean

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalised(answer: str) -> str:
    """An answer in lower case, without ASCII punctuation, then without articles, its words with one space between."""
    bare = answer.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_rows(predictions: Sequence[str], references: References) -> Iterator[Sequence[float]]:
    """For each example whether it equals a reference, and a one."""
    for prediction, own in zip(predictions, references, strict=True):
        said = normalised(prediction)
        yield float(any(said == normalised(reference) for reference in own)), 1


def f1_rows(predictions: Sequence[str], references: References) -> Iterator[Sequence[float]]:
    """For each example F1 of the words it shares with the best reference, and a one."""
    for prediction, own in zip(predictions, references, strict=True):
        said = Counter(normalised(prediction).split())
        yield max(_f1(said, Counter(normalised(reference).split())) for reference in own), 1


def _f1(said: Counter[str], right: Counter[str]) -> float:
    shared = (said & right).total()
    return 2 * shared / (said.total() + right.total()) if shared else 0.0


METRICS = (
    TextMetric(name="exact_match", about="Share of answers equal to a reference, as SQuAD 1.1.", rows=exact_rows, value=mean),
    TextMetric(
        name="answer_f1", about="F1 of an answer's words with the best reference, as SQuAD 1.1.", rows=f1_rows, value=mean
    ),
)
