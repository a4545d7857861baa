"""How tables are read as a task."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lmtailor.core.errors import InputError
from lmtailor.tasks.example import TaskKind
from lmtailor.tasks.table import Table

UNLABELLED = "unlabelled"
STANDARD = ("train", "dev", "test", UNLABELLED)
"""The names of splits that are no out-of-domain sets."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A table on its way to a split. What it does not say itself, the schema says."""

    table: Table
    text: tuple[str, ...] = ()
    """Its names for the task's text columns, in the task's order; empty: the task's own names."""
    label: str | None = None
    label_map: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Schema:
    """How tables are read as a task."""

    kind: TaskKind
    text: tuple[str, ...]
    """One text column, or two for a pair; of labelling the words, with one space between or as lists; of a span the question and
    the text that has the answer."""
    label: str
    """The column of labels; of labelling the words' tags, with one space between or as lists; of generation a text or a list of
    texts, where rows of the same texts are one example; of a span a list of mappings with the "text" and the "answer_start" of
    answers in the last text column."""
    extra: tuple[str, ...] = ()
    """Further columns to keep, for patterns. They may hold empty cells."""
    labels: tuple[str, ...] | None = None
    """All labels in their order; None: those of train, sorted (by value where all are integers)."""
    label_map: Mapping[str, str] = field(default_factory=dict)
    """Label or tag as written in the table -> label of the task; empty: as written."""
    dev_fraction: float | None = None
    """Share of train's distinct texts that becomes dev where there is none, stratified by label."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Split -> the most examples to keep, a seeded sample stratified by label."""
    references: Mapping[str, int] = field(default_factory=dict)
    """In generation: split -> the most references of an example to keep, the first ones."""
    seed: int = 0
    """Of the samples."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.text) <= 2 or len(set(self.text)) != len(self.text):
            raise InputError(f"A task has one text column, or two for a pair; found {list(self.text)}.")
        if self.kind == "labelling" and len(self.text) != 1:
            raise InputError(f"A task of labelling has one text column, the words; found {list(self.text)}.")
        clash = [name for name in self.extra if name in self.text]
        if clash:
            raise InputError(f"The column {clash[0]!r} is a text column already; leave it out of the further columns.")
        if self.kind not in ("classification", "labelling") and (self.labels or self.label_map):
            raise InputError(f"Labels and a label map are for classification and labelling; a task of {self.kind} has none.")
        if self.dev_fraction is not None and not 0 < self.dev_fraction < 1:
            raise InputError(f"dev_fraction must lie between 0 and 1; found {self.dev_fraction}.")
        if self.references and self.kind != "generation":
            raise InputError(f"`references` counts texts to be written, which a task of {self.kind} has none of. Leave it out.")
        for what, limits in (("limit", self.limits), ("number of references", self.references)):
            for name, limit in limits.items():
                if limit < 1:
                    raise InputError(f"The {what} of {name} must be at least 1; found {limit}.")
