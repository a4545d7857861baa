"""What a readout must know of a task: small enough to be stored with an adapter."""

from collections.abc import Mapping
from dataclasses import dataclass

from lmtailor.core.errors import InputError, UnsupportedError, near
from lmtailor.tasks.example import Example, TaskKind
from lmtailor.tasks.task import LABELLED, Task

_READ_BY: Mapping[TaskKind, str] = {
    "classification": "Head or Verbalizer",
    "regression": "Head",
    "generation": "Text",
    "labelling": "Tags",
    "span": 'Span; or read its files as kind = "generation", whose answers are written, and use Text',
}
"""Kind of task -> the readouts that answer it, for messages."""


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """The answers of a task and the columns that they are answers to."""

    kind: TaskKind
    labels: tuple[str, ...]
    """Classification: the labels, in the order of the scores. Labelling: the tags. None in the other kinds."""
    texts: tuple[str, ...]
    """The text column, or the two columns of a pair."""
    extra: tuple[str, ...] = ()
    """Further columns that a pattern may name."""
    target: str = ""
    """Generation: the name of the references."""

    def __post_init__(self) -> None:
        if self.kind in LABELLED and len(self.labels) < 2:
            raise InputError(f"{self.kind.capitalize()} needs at least two labels; found {list(self.labels)}.")
        if self.kind not in LABELLED and self.labels:
            raise InputError(f"A task of {self.kind} has no labels; found {list(self.labels)}.")
        if not 1 <= len(self.texts) <= 2:
            raise InputError(f"A task has one text column, or two for a pair; found {list(self.texts)}.")

    @classmethod
    def of(cls, task: Task) -> "LabelSet":
        """That of a task."""
        target = task.label if task.kind == "generation" else ""
        return cls(kind=task.kind, labels=task.labels, texts=task.text, extra=task.extra, target=target)

    def check_kind(self, *kinds: TaskKind, what: str) -> None:
        """See that a readout is for tasks of this kind.

        Args:
            kinds: those that it is for.
            what: the readout and what it is for, the beginning of a sentence.

        Raises:
            UnsupportedError: it is not; the message names one that is.
        """
        if self.kind not in kinds:
            raise UnsupportedError(f"{what}; this is a task of {self.kind}. Use {_READ_BY[self.kind]}.")

    @property
    def num_outputs(self) -> int:
        """C: how many scores an answer gets, one a label; one where there are no labels."""
        return len(self.labels) or 1

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns an example has."""
        return self.texts + self.extra


def column_texts(example: Example, columns: tuple[str, ...]) -> Mapping[str, str]:
    """The texts of these columns of an example.

    Raises:
        InputError: the example lacks one; the message offers near names.
    """
    for name in columns:
        if name not in example.fields:
            raise InputError(f"The {example.called} has no column {name!r}. {near(name, example.fields)}")
    return {name: example.fields[name] for name in columns}
