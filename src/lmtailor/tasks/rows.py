"""The rows of a table as a task reads them: checked texts, and labels or references that are still as written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmtailor.core.errors import DataError, InputError
from lmtailor.tasks.cells import label_cells, mapped, reference_cells, span_cells, text_cells, word_cells
from lmtailor.tasks.schema import UNLABELLED, Part, Schema


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """An example whose label is still as written."""

    id: str
    place: str
    fields: Mapping[str, str]
    label: str | float | None = None
    references: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()

    def labels(self) -> Sequence[str]:
        """Its own named labels: one in classification, one a word in labelling."""
        if self.references:
            return self.references[0].split(" ")
        return () if self.label is None else (str(self.label),)


def read_rows(name: str, part: Part, schema: Schema) -> list[Row]:
    """The checked rows of one table, with the task's names for its text columns.

    Args:
        name: of the split.
        part: the table.
        schema: of the task.

    Raises:
        DataError: a missing column, empty texts, missing labels, or what the kind of the task does not allow.
        InputError: the part names another number of text columns than the task has.
    """
    table = part.table
    own = part.text or schema.text
    if len(own) != len(schema.text):
        raise InputError(
            f"{name} names {len(own)} text columns {list(own)}, but the task has {len(schema.text)}: {list(schema.text)}."
        )
    if schema.kind == "labelling":
        return _tagged(name, part, schema, own[0])
    columns = {task: text_cells(table, mine, required=True) for task, mine in zip(schema.text, own, strict=True)}
    columns |= _extra(part, schema)
    labels: Sequence[str | float | None] = [None] * table.size
    if name != UNLABELLED and schema.kind == "generation":
        return _with_references(name, part, schema, columns)
    if name != UNLABELLED and schema.kind == "span":
        return _with_spans(name, part, schema, columns)
    if name != UNLABELLED:
        labels = label_cells(table, part.label or schema.label, schema.kind, _label_map(part, schema))
    return [
        Row(id=f"{name}/{number}", place=table.place(number), fields=dict(zip(columns, cells, strict=True)), label=label)
        for number, (label, *cells) in enumerate(zip(labels, *columns.values(), strict=True))
    ]


def _extra(part: Part, schema: Schema) -> dict[str, list[str]]:
    return {column: text_cells(part.table, column, required=False) for column in schema.extra}


def _label_map(part: Part, schema: Schema) -> Mapping[str, str]:
    return schema.label_map if part.label_map is None else part.label_map


def _with_references(name: str, part: Part, schema: Schema, columns: Mapping[str, list[str]]) -> list[Row]:
    """Rows of one example each: those of the same texts are one with several references, where the first of them stood."""
    references = reference_cells(part.table, part.label or schema.label)
    found: dict[tuple[str, ...], tuple[str, list[str]]] = {}
    for row, (texts, own) in enumerate(zip(zip(*columns.values(), strict=True), references, strict=True)):
        found.setdefault(texts, (part.table.place(row), []))[1].extend(own)
    return [
        Row(id=f"{name}/{number}", place=place, fields=dict(zip(columns, texts, strict=True)), references=tuple(own))
        for number, (texts, (place, own)) in enumerate(found.items())
    ]


def _with_spans(name: str, part: Part, schema: Schema, columns: Mapping[str, list[str]]) -> list[Row]:
    """Rows with answers that are parts of the last text column."""
    spans = span_cells(part.table, part.label or schema.label, columns[schema.text[-1]])
    return [
        Row(
            id=f"{name}/{number}",
            place=part.table.place(number),
            fields=dict(zip(columns, cells, strict=True)),
            references=texts,
            starts=starts,
        )
        for number, ((texts, starts), *cells) in enumerate(zip(spans, *columns.values(), strict=True))
    ]


def _tagged(name: str, part: Part, schema: Schema, column: str) -> list[Row]:
    """Rows of words with a tag each.

    Raises:
        DataError: a row without words, or with another number of tags than words.
        InputError: a label map with a tag that is empty or holds whitespace.
    """
    table, label, names = part.table, part.label or schema.label, _label_map(part, schema)
    broken = next((tag for tag in names.values() if tag.split() != [tag]), None)
    if broken is not None:
        raise InputError(f"The label map has the tag {broken!r}. Tags are not empty and hold no whitespace.")
    words = word_cells(table, column, "words")
    columns = {schema.text[0]: [" ".join(own) for own in words]} | _extra(part, schema)
    tags: list[tuple[str, ...]] = [()] * table.size
    if name != UNLABELLED:
        tags = mapped(table, word_cells(table, label, "tags"), names)
        odd = [row for row, (one, other) in enumerate(zip(words, tags, strict=True)) if len(one) != len(other)]
        if odd:
            raise DataError(
                f"{table.source}: {len(odd)} of {table.size} rows have another number of tags (column {label!r}) than words "
                f"(column {column!r}), {table.where(odd)}; the first has {len(words[odd[0]])} words and {len(tags[odd[0]])} "
                "tags. Each word has one tag."
            )
    return [
        Row(
            id=f"{name}/{number}",
            place=table.place(number),
            fields=dict(zip(columns, cells, strict=True)),
            references=(" ".join(own),) if own else (),
        )
        for number, (own, *cells) in enumerate(zip(tags, *columns.values(), strict=True))
    ]
