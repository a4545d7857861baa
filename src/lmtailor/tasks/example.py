"""What a task is made of: labelled texts, and splits of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lmtailor.core.errors import DataError

TaskKind = Literal["classification", "regression", "generation", "labelling", "span"]
"""classification: one of several labels. regression: a number. generation: a text. labelling: a tag for each word. span: a part
of the text."""

TEXT_KINDS = ("generation", "labelling", "span")
"""Kinds whose answers are texts, compared with reference texts: what is written, tags with a space between, a span."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One text or pair of texts, with its label where it is known."""

    id: str
    """Unique in its task: the split's name and the row's number there, such as "train/17"."""
    fields: Mapping[str, str]
    """Column name -> text, for the task's text columns and its further columns."""
    label: int | float | None = None
    """Index into the task's labels; in regression the value; None where it is not known, and where answers are texts."""
    references: tuple[str, ...] = ()
    """There the answers that would be right: texts, the tags of the words with a space between, the texts of spans. Empty where
    none is known."""
    starts: tuple[int, ...] = ()
    """Of a span's references the characters of the text at which they begin."""
    place: str = field(default="", compare=False)
    """Where it was read, such as "chats.jsonl, line 3", for messages; "" where nobody noted it. The first of several rows."""

    @property
    def called(self) -> str:
        """What messages call it, such as "example 'train/2' (chats.jsonl, line 3)"."""
        return f"example {self.id!r} ({self.place})" if self.place else f"example {self.id!r}"


@dataclass(frozen=True, kw_only=True)
class Split:
    """Examples that belong together, in a fixed order."""

    name: str
    """"train", "dev", "test", "unlabelled", or the name of an out-of-domain set."""
    examples: tuple[Example, ...] = field(repr=False)
    source: str = "records"
    """Where the examples were read from, for messages and provenance."""

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        """The examples, in order."""
        return iter(self.examples)

    @property
    def labelled(self) -> bool:
        """Whether every example has a label, or references."""
        return all(example.label is not None or example.references for example in self.examples)

    @property
    def labels(self) -> tuple[int | float, ...]:
        """The labels, in order.

        Raises:
            DataError: some examples have none.
        """
        labels = tuple(example.label for example in self.examples if example.label is not None)
        if len(labels) != len(self.examples):
            missing = len(self.examples) - len(labels)
            raise DataError(f"{missing} of {len(self.examples)} examples of {self.name} have no label. Use a labelled split.")
        return labels

    @property
    def references(self) -> tuple[tuple[str, ...], ...]:
        """The texts that would be right, for each example.

        Raises:
            DataError: some examples have none.
        """
        missing = sum(not example.references for example in self.examples)
        if missing:
            raise DataError(f"{missing} of {len(self.examples)} examples of {self.name} have no reference. Use a labelled split.")
        return tuple(example.references for example in self.examples)
