"""Tags of words: their accuracy, and F1 of labelled spans, as seqeval (and CoNLL's conlleval) gives it, over all spans of all
examples, types together.

Here a text is a sequence of tags with spaces between, such as `B-PER I-PER O`. Spans are read from IOB1, IOB2 or IOBES tags as
conlleval reads them: a tag that cannot go on begins a span.
"""

import re
from collections.abc import Iterator, Sequence

from lmtailor.tasks.metrics.text.metric import ExampleError, Floats, References, TextMetric, mean

_TAG = re.compile(r"O|[BIES](?:-.+)?")


def span_rows(predictions: Sequence[str], references: References) -> Iterator[Sequence[float]]:
    """For each example: spans that are right (place and type), spans predicted, spans of the reference.

    Raises:
        InputError: an example that has not exactly one reference, or another number of tags than its reference; a tag of
            another form.
    """
    for number, (prediction, own) in enumerate(zip(predictions, references, strict=True), start=1):
        said, right = _tags(prediction, own, number, "span_f1")
        predicted, expected = (_spans(tags, number) for tags in (said, right))
        yield len(predicted & expected), len(predicted), len(expected)


def _tags(prediction: str, references: Sequence[str], number: int, metric: str) -> tuple[list[str], list[str]]:
    """The tags of an example and of its reference."""
    if len(references) != 1:
        raise ExampleError(number, f"has {len(references)} references, but {metric} compares tags with one. Give one.")
    said, right = prediction.split(), references[0].split()
    if len(said) != len(right):
        raise ExampleError(number, f"has {len(said)} tags, but its reference {len(right)}. Give each token a tag.")
    return said, right


def _spans(tags: Sequence[str], number: int) -> set[tuple[str, int, int]]:
    """(type, first token, last token) of each span."""
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise ExampleError(number, f"has the tag {tag!r}. Spans are read from tags such as B-PER, I-PER and O.")
    from seqeval.metrics.sequence_labeling import get_entities  # slow to import

    return set(get_entities(list(tags)))


def span_value(sums_B3: Floats) -> Floats:
    """2 · right / (predicted + reference) (B,); 0 where there are no spans at all, as in seqeval."""
    right_B, predicted_B, expected_B = sums_B3.T
    total_B = predicted_B + expected_B
    values: Floats = 2 * right_B / total_B.clip(min=1)
    return values


def accuracy_rows(predictions: Sequence[str], references: References) -> Iterator[Sequence[float]]:
    """For each example the tags that are right, and all of them.

    Raises:
        InputError: an example that has not exactly one reference, or another number of tags than its reference.
    """
    for number, (prediction, own) in enumerate(zip(predictions, references, strict=True), start=1):
        said, right = _tags(prediction, own, number, "tag_accuracy")
        yield sum(one == other for one, other in zip(said, right, strict=True)), len(right)


METRICS = (
    TextMetric(name="span_f1", about="F1 of spans in BIO tags, as seqeval.", rows=span_rows, value=span_value),
    TextMetric(name="tag_accuracy", about="Share of words with the right tag.", rows=accuracy_rows, value=mean),
)
