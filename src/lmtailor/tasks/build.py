"""From tables to splits: texts and labels are checked, labels become indices, and what is odd becomes a note."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lmtailor.core.errors import DataError, InputError, near
from lmtailor.tasks.example import Example, Split, TaskKind
from lmtailor.tasks.overlap import overlap_notes, text_of
from lmtailor.tasks.rows import Row, read_rows
from lmtailor.tasks.sample import stratified
from lmtailor.tasks.schema import STANDARD, UNLABELLED, Part, Schema


@dataclass(frozen=True, kw_only=True)
class Built:
    """What tables became."""

    splits: Mapping[str, Split]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def build_splits(parts: Mapping[str, Part], schema: Schema) -> Built:
    """Read the parts as splits: train, dev, test, unlabelled, and out-of-domain sets under their own names.

    Raises:
        DataError: a missing column, empty texts, missing labels, labels that train lacks, or a train split in
            which all labels are the same.
        InputError: a limit or a number of references for a split that is not there, or `dev_fraction` besides a dev split.
    """
    rows = {name: read_rows(name, part, schema) for name, part in parts.items()}
    sources = {name: part.table.source for name, part in parts.items()}
    if schema.dev_fraction is not None:
        if "dev" in rows or "train" not in rows:
            raise InputError("dev_fraction takes dev from train: it needs a train split and no dev split of its own.")
        rows["train"], rows["dev"] = _take_dev(rows["train"], schema)
        sources["dev"] = sources["train"]
    if "train" in rows and schema.kind not in ("generation", "span"):
        _check_train(rows["train"], sources["train"])
    labels, notes = _labels(rows, sources, schema)
    for name, limit in schema.limits.items():
        if name not in rows:
            raise InputError(f"There is a limit for the split {name!r}, which is not there. {near(name, rows)}")
        rows[name] = _limit(rows[name], limit, name, schema)
    for name, most in schema.references.items():
        if name not in rows:
            raise InputError(f"There is a number of references for the split {name!r}, which is not there. {near(name, rows)}")
        rows[name] = [replace(row, references=row.references[:most]) for row in rows[name]]
    if "train" in schema.limits and schema.kind not in ("generation", "span"):
        _check_train(rows["train"], sources["train"], " after the limit")
    order = [name for name in STANDARD if name in rows] + [name for name in rows if name not in STANDARD]
    splits = {name: _split(name, rows[name], labels, sources[name]) for name in order}
    return Built(splits=splits, labels=labels, notes=(*notes, *overlap_notes(splits, schema.text)))


def _take_dev(rows: list[Row], schema: Schema) -> tuple[list[Row], list[Row]]:
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


def _limit(rows: list[Row], limit: int, name: str, schema: Schema) -> list[Row]:
    strata = [_stratum(row, schema.kind) for row in rows]
    if name == "train" and limit < len(set(strata)):
        raise InputError(
            f"The limit of train is {limit}, but train has {len(set(strata))} labels. Keep at least one example of each."
        )
    chosen = stratified(strata, [row.id for row in rows], limit, seed=schema.seed, name=f"limit/{name}")
    return [rows[index] for index in chosen]


def _stratum(row: Row, kind: TaskKind) -> str:
    return str(row.label) if kind == "classification" else ""


def _labels(rows: Mapping[str, list[Row]], sources: Mapping[str, str], schema: Schema) -> tuple[tuple[str, ...], list[str]]:
    """The task's labels in order, and notes on them; labels that do not belong raise."""
    if schema.kind not in ("classification", "labelling"):
        return (), []
    unit = "row" if schema.kind == "classification" else "word"
    counts = {name: Counter(label for row in part for label in row.labels()) for name, part in rows.items() if name != UNLABELLED}
    seen = counts["train"] if "train" in counts else sum(counts.values(), Counter())
    labels = schema.labels if schema.labels is not None else _ordered(seen)
    _check_declared(labels)
    for name, found in counts.items():
        strange = [label for label in found if label not in labels]
        if strange and schema.labels is not None:
            hint = f"{near(strange[0], labels)} A label map renames labels."
            raise DataError(
                f"{sources[name]} ({name}) has {_counted(strange, found, unit)}, not among the labels of the task. {hint}"
            )
        untrained = [label for label in found if label not in seen]
        if untrained:
            hint = f"Train has {', '.join(_ordered(seen))}. Add examples of it, or rename it with a label map."
            raise DataError(f"{sources[name]} ({name}) has {_counted(untrained, found, unit)}, which train lacks. {hint}")
    where = "train" if "train" in counts else "any split"
    unused = [label for label in labels if label not in seen] if seen else []
    return labels, [f"No example of {where} has the label {label!r}." for label in unused]


def _check_declared(labels: Sequence[str]) -> None:
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise InputError(f"The label {twice[0]!r} stands twice in the labels. Each stands once.")


def _check_train(rows: Sequence[Row], source: str, cut: str = "") -> None:
    labels = {label for row in rows for label in row.labels()}
    if len(labels) > 1:
        return
    found = f"All {len(rows)} examples of train{cut} ({source}) have the label {labels.pop()!r}"
    raise DataError(f"{found}: nothing can be learned. Give examples of at least two labels.")


def _split(name: str, rows: Sequence[Row], labels: Sequence[str], source: str) -> Split:
    index = {label: number for number, label in enumerate(labels)}
    examples = tuple(
        Example(
            id=row.id,
            fields=row.fields,
            label=index[row.label] if isinstance(row.label, str) else row.label,
            references=row.references,
            starts=row.starts,
            place=row.place,
        )
        for row in rows
    )
    return Split(name=name, examples=examples, source=source)


def _ordered(labels: Mapping[str, int]) -> tuple[str, ...]:
    """Sorted as numbers where all are integers, else as text."""
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def _counted(labels: Sequence[str], counts: Mapping[str, int], unit: str) -> str:
    """Labels as a message shows them: "the label 'mixed' (12 rows)"."""
    shown = ", ".join(f"{label!r} ({counts[label]} {unit}{'s' if counts[label] > 1 else ''})" for label in labels[:10])
    more = f" and {len(labels) - 10} more" if len(labels) > 10 else ""
    return f"the label{'s' if len(labels) > 1 else ''} {shown}{more}"
