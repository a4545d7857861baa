"""From tables to splits: texts and labels are checked, labels become indices, and what is odd becomes a note."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lmtailor.core.errors import DataError, InputError, near
from lmtailor.tasks.cells import label_cells, reference_cells, text_cells
from lmtailor.tasks.example import TEXT_KINDS, Example, Split, TaskKind
from lmtailor.tasks.overlap import overlap_notes, text_of
from lmtailor.tasks.sample import stratified
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
    """One text column, or two for a pair."""
    label: str
    """The column of labels, or of references."""
    extra: tuple[str, ...] = ()
    """Further columns to keep, for patterns. They may hold empty cells."""
    labels: tuple[str, ...] | None = None
    """All labels in their order; None: those of train, sorted (by value where all are integers)."""
    label_map: Mapping[str, str] = field(default_factory=dict)
    """Label as written in the table -> label of the task; empty: as written."""
    dev_fraction: float | None = None
    """Share of train's distinct texts that becomes dev where there is none, stratified by label."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Split -> the most examples to keep, a seeded sample stratified by label."""
    seed: int = 0
    """Of the samples."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.text) <= 2 or len(set(self.text)) != len(self.text):
            raise InputError(f"A task has one text column, or two for a pair; found {list(self.text)}.")
        clash = [name for name in self.extra if name in self.text]
        if clash:
            raise InputError(f"The column {clash[0]!r} is a text column already; leave it out of the further columns.")
        if self.kind not in ("classification", "labelling") and (self.labels or self.label_map):
            raise InputError(f"Labels and a label map are for classification and labelling; a task of {self.kind} has none.")
        if self.dev_fraction is not None and not 0 < self.dev_fraction < 1:
            raise InputError(f"dev_fraction must lie between 0 and 1; found {self.dev_fraction}.")
        for name, limit in self.limits.items():
            if limit < 1:
                raise InputError(f"The limit of {name} must be at least 1; found {limit}.")


@dataclass(frozen=True, kw_only=True)
class Built:
    """What tables became."""

    splits: Mapping[str, Split]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """An example whose label is still as written."""

    id: str
    fields: Mapping[str, str]
    label: str | float | None = None
    references: tuple[str, ...] = ()


def build_splits(parts: Mapping[str, Part], schema: Schema) -> Built:
    """Read the parts as splits: train, dev, test, unlabelled, and out-of-domain sets under their own names.

    Raises:
        DataError: a missing column, empty texts, missing labels, labels that train lacks, or a train split in
            which all labels are the same.
        InputError: a limit for a split that is not there, or `dev_fraction` besides a dev split.
    """
    rows = {name: _rows(name, part, schema) for name, part in parts.items()}
    sources = {name: part.table.source for name, part in parts.items()}
    if schema.dev_fraction is not None:
        if "dev" in rows or "train" not in rows:
            raise InputError("dev_fraction takes dev from train: it needs a train split and no dev split of its own.")
        rows["train"], rows["dev"] = _take_dev(rows["train"], schema)
        sources["dev"] = sources["train"]
    if "train" in rows and schema.kind not in TEXT_KINDS:
        _check_train(rows["train"], sources["train"])
    labels, notes = _labels(rows, sources, schema)
    for name, limit in schema.limits.items():
        if name not in rows:
            raise InputError(f"There is a limit for the split {name!r}, which is not there. {near(name, rows)}")
        rows[name] = _limit(rows[name], limit, name, schema)
    if "train" in schema.limits and schema.kind not in TEXT_KINDS:
        _check_train(rows["train"], sources["train"], " after the limit")
    order = [name for name in STANDARD if name in rows] + [name for name in rows if name not in STANDARD]
    splits = {name: _split(name, rows[name], labels, sources[name]) for name in order}
    return Built(splits=splits, labels=labels, notes=(*notes, *overlap_notes(splits, schema.text)))


def _rows(name: str, part: Part, schema: Schema) -> list[_Row]:
    """The checked rows of one table, with the task's names for its text columns."""
    table = part.table
    own = part.text or schema.text
    if len(own) != len(schema.text):
        raise InputError(
            f"{name} names {len(own)} text columns {list(own)}, but the task has {len(schema.text)}: {list(schema.text)}."
        )
    columns = {task: text_cells(table, mine, required=True) for task, mine in zip(schema.text, own, strict=True)}
    columns |= {column: text_cells(table, column, required=False) for column in schema.extra}
    labels: Sequence[str | float | None] = [None] * table.size
    if name != UNLABELLED and schema.kind == "generation":
        return _with_references(name, part, schema, columns)
    if name != UNLABELLED:
        label_map = schema.label_map if part.label_map is None else part.label_map
        labels = label_cells(table, part.label or schema.label, schema.kind, label_map)
    names = tuple(columns)
    return [
        _Row(id=f"{name}/{number}", fields=dict(zip(names, cells, strict=True)), label=label)
        for number, (label, *cells) in enumerate(zip(labels, *columns.values(), strict=True))
    ]


def _with_references(name: str, part: Part, schema: Schema, columns: Mapping[str, list[str]]) -> list[_Row]:
    """Rows of one example each: those of the same texts are one with several references, where the first of them stood."""
    references = reference_cells(part.table, part.label or schema.label)
    found: dict[tuple[str, ...], list[str]] = {}
    for texts, own in zip(zip(*columns.values(), strict=True), references, strict=True):
        found.setdefault(texts, []).extend(own)
    return [
        _Row(id=f"{name}/{number}", fields=dict(zip(columns, texts, strict=True)), references=tuple(own))
        for number, (texts, own) in enumerate(found.items())
    ]


def _take_dev(rows: list[_Row], schema: Schema) -> tuple[list[_Row], list[_Row]]:
    """Train without dev, and dev. Rows of the same text stay together."""
    assert schema.dev_fraction is not None
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(text_of(row.fields, schema.text), []).append(index)
    strata = [_stratum(rows[indices[0]], schema.kind) for indices in groups.values()]
    count = round(schema.dev_fraction * len(groups))
    if not 0 < count < len(groups):
        raise InputError(f"dev_fraction {schema.dev_fraction} of {len(groups)} distinct texts leaves train or dev empty.")
    keys = ["\x1f".join(text) for text in groups]
    taken = stratified(strata, keys, count, seed=schema.seed, name="dev")
    members = list(groups.values())
    dev = {index for group in taken for index in members[group]}
    held = [replace(rows[index], id=f"dev/{rows[index].id}") for index in sorted(dev)]
    return [row for index, row in enumerate(rows) if index not in dev], held


def _limit(rows: list[_Row], limit: int, name: str, schema: Schema) -> list[_Row]:
    strata = [_stratum(row, schema.kind) for row in rows]
    if name == "train" and limit < len(set(strata)):
        raise InputError(
            f"The limit of train is {limit}, but train has {len(set(strata))} labels. Keep at least one example of each."
        )
    chosen = stratified(strata, [row.id for row in rows], limit, seed=schema.seed, name=f"limit/{name}")
    return [rows[index] for index in chosen]


def _stratum(row: _Row, kind: TaskKind) -> str:
    return str(row.label) if kind == "classification" else ""


def _labels(rows: Mapping[str, list[_Row]], sources: Mapping[str, str], schema: Schema) -> tuple[tuple[str, ...], list[str]]:
    """The task's labels in order, and notes on them; labels that do not belong raise."""
    if schema.kind != "classification":
        return (), []
    counts = {name: Counter(str(row.label) for row in part) for name, part in rows.items() if name != UNLABELLED}
    seen = counts["train"] if "train" in counts else sum(counts.values(), Counter())
    labels = schema.labels if schema.labels is not None else _ordered(seen)
    _check_declared(labels)
    for name, found in counts.items():
        strange = [label for label in found if label not in labels]
        if strange and schema.labels is not None:
            hint = f"{near(strange[0], labels)} A label map renames labels."
            raise DataError(f"{sources[name]} ({name}) has {_counted(strange, found)}, not among the labels of the task. {hint}")
        untrained = [label for label in found if label not in seen]
        if untrained:
            hint = f"Train has {', '.join(_ordered(seen))}. Add examples of it, or rename it with a label map."
            raise DataError(f"{sources[name]} ({name}) has {_counted(untrained, found)}, which train lacks. {hint}")
    where = "train" if "train" in counts else "any split"
    unused = [label for label in labels if label not in seen] if seen else []
    return labels, [f"No example of {where} has the label {label!r}." for label in unused]


def _check_declared(labels: Sequence[str]) -> None:
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise InputError(f"The label {twice[0]!r} stands twice in the labels. Each stands once.")


def _check_train(rows: Sequence[_Row], source: str, cut: str = "") -> None:
    if len({row.label for row in rows}) > 1:
        return
    found = f"All {len(rows)} examples of train{cut} ({source}) have the label {rows[0].label!r}"
    raise DataError(f"{found}: nothing can be learned. Give examples of at least two labels.")


def _split(name: str, rows: Sequence[_Row], labels: Sequence[str], source: str) -> Split:
    index = {label: number for number, label in enumerate(labels)}
    examples = tuple(
        Example(
            id=row.id,
            fields=row.fields,
            label=index[row.label] if isinstance(row.label, str) else row.label,
            references=row.references,
        )
        for row in rows
    )
    return Split(name=name, examples=examples, source=source)


def _ordered(labels: Mapping[str, int]) -> tuple[str, ...]:
    """Sorted as numbers where all are integers, else as text."""
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def _counted(labels: Sequence[str], counts: Mapping[str, int]) -> str:
    """Labels as a message shows them: "the label 'mixed' (12 rows)"."""
    shown = ", ".join(f"{label!r} ({counts[label]} row{'s' if counts[label] > 1 else ''})" for label in labels[:10])
    more = f" and {len(labels) - 10} more" if len(labels) > 10 else ""
    return f"the label{'s' if len(labels) > 1 else ''} {shown}{more}"
