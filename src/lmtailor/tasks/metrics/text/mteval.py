"""BLEU and NIST as NIST's program mteval-v13a gives them: words of its tokenizer, in lower case.

Papineni et al. 2002; Doddington 2002. BLEU is sacrebleu's. For NIST no kept package agrees with the program, so its formula is
here. Values are shares (BLEU 0.6593, not 65.93), as the E2E challenge prints them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from lmtailor.tasks.metrics.text.metric import Floats, References, TextMetric

BLEU_ORDER = 4
NIST_ORDER = 5

_LEAST = 1e-9
"""A length ratio whose penalty is 0 to any digit."""

NGram = tuple[str, ...]


def bleu_rows(predictions: Sequence[str], references: References) -> Iterator[Sequence[float]]:
    """For each example: words, words of the reference whose length is closest, matched n-grams (4), n-grams (4)."""
    scorer = BLEU(tokenize="13a", lowercase=True, effective_order=True)
    for prediction, own in zip(predictions, references, strict=True):
        score = scorer.sentence_score(prediction, list(own))
        yield (score.sys_len, score.ref_len, *score.counts, *score.totals)


def bleu_value(sums_BK: Floats) -> Floats:
    """BLEU-4 from 0 to 1 (B,); an order without a match counts as 1 / 2^k of one, as the program smooths."""
    return np.array([_bleu(sums_K) for sums_K in sums_BK])


def _bleu(sums_K: Floats) -> float:
    sys_len, ref_len, *rest = (int(number) for number in sums_K.round())
    score = BLEU.compute_bleu(rest[:BLEU_ORDER], rest[BLEU_ORDER:], sys_len, ref_len, smooth_method="exp")
    return float(score.score) / 100


def nist_rows(predictions: Sequence[str], references: References) -> Iterator[Sequence[float]]:
    """For each example: 1, words, words of its references, references, information of matched n-grams (5), n-grams (5).

    The information of an n-gram is log2 of how often its first n - 1 words are in all references over how often it is
    (equation 2). Bootstrap samples keep it.
    """
    tokenize = _tokenizer()
    split = [[tokenize(text).split() for text in own] for own in references]
    information = _information(split)
    for prediction, own in zip(predictions, split, strict=True):
        said = tokenize(prediction).split()
        most: Counter[NGram] = Counter()
        for reference in own:
            most |= _ngrams(reference, NIST_ORDER)
        gained = [0.0] * NIST_ORDER
        for ngram, count in _ngrams(said, NIST_ORDER).items():
            gained[len(ngram) - 1] += min(count, most[ngram]) * information.get(ngram, 0.0)
        totals = [max(0, len(said) - order) for order in range(NIST_ORDER)]
        yield (1, len(said), sum(map(len, own)), len(own), *gained, *totals)


def nist_value(sums_BK: Floats) -> Floats:
    """NIST-5 (B,): mean information of n-grams, summed over n, times a penalty of 0.5 at two thirds of the length (equation 3).

    The length expected of an example is the mean of all references, whichever example they belong to, as the program has it.
    """
    n_B, said_B, words_B, references_B = sums_BK[:, :4].T
    gained_BK, totals_BK = np.split(sums_BK[:, 4:], 2, axis=1)
    score_B = (gained_BK / np.maximum(totals_BK, 1)).sum(axis=1)
    ratio_B = said_B * references_B / np.maximum(words_B * n_B, 1)
    penalty_B = np.exp(np.log(0.5) * (np.log(np.clip(ratio_B, _LEAST, 1.0)) / np.log(1.5)) ** 2)
    values: Floats = np.where(said_B > 0, score_B * penalty_B, 0.0)
    return values


def _tokenizer() -> Callable[[str], str]:
    """mteval-v13a's: spaces between words, in lower case."""
    tokenize: Callable[[str], str] = Tokenizer13a()  # type: ignore[no-untyped-call]
    return lambda text: tokenize(text.lower().rstrip())


def _ngrams(words: Sequence[str], longest: int) -> Counter[NGram]:
    return Counter(tuple(words[start : start + size]) for size in range(1, longest + 1) for start in range(len(words) - size + 1))


def _information(references: Sequence[Sequence[Sequence[str]]]) -> dict[NGram, float]:
    counts: Counter[NGram] = Counter()
    for own in references:
        for reference in own:
            counts.update(_ngrams(reference, NIST_ORDER))
    counts[()] = sum(len(reference) for own in references for reference in own)
    return {ngram: float(np.log2(counts[ngram[:-1]] / count)) for ngram, count in counts.items() if ngram}


METRICS = (
    TextMetric(name="bleu", about="BLEU-4 from 0 to 1, as mteval-v13a (lower case).", rows=bleu_rows, value=bleu_value),
    TextMetric(name="nist", about="NIST-5, as mteval-v13a (lower case).", rows=nist_rows, value=nist_value),
)
