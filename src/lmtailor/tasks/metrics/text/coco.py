"""ROUGE-L and CIDEr as coco-caption gives them, on the words of `treebank`. Lin 2004; Vedantam et al. 2015.

The program's CIDEr is what the paper calls CIDEr-D (section 5): counts are clipped and lengths compared.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

from lmtailor.tasks.metrics.text.metric import References, TextMetric, mean
from lmtailor.tasks.metrics.text.treebank import words

BETA = 1.2
"""How much more recall counts than precision in ROUGE-L."""

ORDER = 4
"""The longest n-grams of CIDEr."""

SIGMA = 6.0
"""Width in words of CIDEr's penalty of other lengths."""

NGram = tuple[str, ...]


def rouge_rows(predictions: Sequence[str], references: References) -> Iterator[Sequence[float]]:
    """For each example ROUGE-L and a one. Precision and recall are each of the reference that gives most."""
    for prediction, own in zip(predictions, references, strict=True):
        said = words(prediction)
        expected = [words(reference) for reference in own]
        common = [_common(said, each) for each in expected]
        precision = max(common) / max(1, len(said))
        recall = max(length / max(1, len(each)) for length, each in zip(common, expected, strict=True))
        score = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0
        yield score, 1


def cider_rows(predictions: Sequence[str], references: References) -> Iterator[Sequence[float]]:
    """For each example CIDEr (0 to 10) and a one.

    An n-gram's weight is its count times log(N / in how many examples' references it is). So CIDEr speaks of a corpus: with one
    example every weight is 0. Bootstrap samples keep the weights.
    """
    counted = [[_ngrams(words(reference)) for reference in own] for own in references]
    holders = Counter(ngram for own in counted for ngram in set().union(*own))
    every = log(len(counted))
    for prediction, own in zip(predictions, counted, strict=True):
        said = _vector(_ngrams(words(prediction)), holders, every)
        likeness = sum(_likeness(said, _vector(counts, holders, every)) for counts in own)
        yield 10 * likeness / len(own), 1


@dataclass(frozen=True, slots=True)
class _Vector:
    """The weighted n-grams of a text."""

    weights: dict[NGram, float]
    norms: tuple[float, ...]
    """Length of the part of each order."""
    pairs: int
    """Number of its bigrams, by which the program compares lengths."""


def _vector(counts: Counter[NGram], holders: Counter[NGram], every: float) -> _Vector:
    weights = {ngram: count * (every - log(max(1, holders[ngram]))) for ngram, count in counts.items()}
    squares = [0.0] * ORDER
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight**2
    pairs = sum(count for ngram, count in counts.items() if len(ngram) == 2)
    return _Vector(weights=weights, norms=tuple(map(sqrt, squares)), pairs=pairs)


def _likeness(said: _Vector, right: _Vector) -> float:
    """The mean over orders of the clipped cosine, less the further the lengths are apart."""
    dots = [0.0] * ORDER
    for ngram, weight in said.weights.items():
        other = right.weights.get(ngram, 0.0)
        dots[len(ngram) - 1] += min(weight, other) * other
    cosines = [dot / (a * b) if a and b else 0.0 for dot, a, b in zip(dots, said.norms, right.norms, strict=True)]
    return sum(cosines) / ORDER * exp(-((said.pairs - right.pairs) ** 2) / (2 * SIGMA**2))


def _ngrams(text: Sequence[str]) -> Counter[NGram]:
    return Counter(tuple(text[start : start + size]) for size in range(1, ORDER + 1) for start in range(len(text) - size + 1))


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence, a bit a word of `a` (Hyyrö 2004, figure 1)."""
    places: dict[str, int] = {}
    for place, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(a)) - 1
    open_places = every
    for word in b:
        met = open_places & places.get(word, 0)
        open_places = (open_places + met | open_places - met) & every
    return len(a) - open_places.bit_count()


METRICS = (
    TextMetric(name="coco_rouge_l", about="ROUGE-L as coco-caption and the E2E script give it.", rows=rouge_rows, value=mean),
    TextMetric(name="cider", about="CIDEr (CIDEr-D, 0 to 10) as coco-caption gives it.", rows=cider_rows, value=mean),
)
