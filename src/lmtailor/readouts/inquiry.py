"""Answers that are texts and stand in the scores of one pass: tags of words, a part of the input.

A reading that gives them says itself what is run for an example and how its answer is read off the scores, so that whoever fits,
evaluates or predicts need not know the kind of task.

Shapes: C scores of an answer unit, which are the columns of its row.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lmtailor.readouts.batch import Encoded
from lmtailor.tasks.example import Example


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An answer."""

    text: str
    """As references are: tags with one space between, or a part of the input."""
    tags: tuple[str, ...] = ()
    """Labelling: the tag of each word."""
    start: int | None = None
    """Span: the character of its column at which the text begins."""


class Inquiry(Protocol):
    """An example as it is run, and how its answer is read."""

    @property
    def items(self) -> tuple[Encoded, ...]:
        """What is run: the example, or windows of it."""

    def finding(self, scores: Sequence[Tensor]) -> Finding:
        """The answer, of the scores (units, C) of each item."""


class Inquires(ABC):
    """A reading whose answers are texts that one pass gives."""

    @abstractmethod
    def inquiry(self, example: Example) -> Inquiry:
        """How an example is answered.

        Raises:
            InputError: a column is missing, or the text cannot be read.
        """


def findings(inquiries: Sequence[Inquiry], scores: Sequence[Tensor]) -> Iterator[Finding]:
    """The answers of inquiries, of the scores of all their items, one after the other."""
    first = 0
    for one in inquiries:
        last = first + len(one.items)
        yield one.finding(scores[first:last])
        first = last
