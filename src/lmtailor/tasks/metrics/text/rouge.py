"""ROUGE-1, ROUGE-2 and ROUGE-L as Google's rouge-score gives them, with Porter stems. Lin 2004.

Of several references the one with the best F counts, and a score is the mean F over examples. `coco_rouge_l` is another measure.
"""

from collections.abc import Iterator, Sequence

from lmtailor.tasks.metrics.text.metric import References, Rows, TextMetric, mean

_TYPES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
"""Our names, and the package's."""


def _rows(kind: str) -> Rows:
    """Rows of a score and a one for each example."""

    def rows(predictions: Sequence[str], references: References) -> Iterator[Sequence[float]]:
        from rouge_score.rouge_scorer import RougeScorer  # with all of NLTK: whoever does not ask for it does not wait for it

        scorer = RougeScorer([kind], use_stemmer=True)
        for prediction, own in zip(predictions, references, strict=True):
            yield scorer.score_multi(list(own), prediction)[kind].fmeasure, 1

    return rows


METRICS = tuple(
    TextMetric(
        name=name, about=f"{name.replace('_', '-').upper()} (F), as rouge-score with stemming.", rows=_rows(kind), value=mean
    )
    for name, kind in _TYPES.items()
)
