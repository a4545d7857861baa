"""New texts to answer: arguments, lines of stdin or of a file, or rows of a table."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from lmtailor.core.errors import DataError, InputError, near
from lmtailor.tasks.cells import text_cells
from lmtailor.tasks.read import SUFFIXES, Format, read_table

ID = "id"
ADAPTER = "adapter"
"""Columns of a table that are no texts: a row's name, and the adapter that is to answer it."""

LINES = ".txt"

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input."""

    id: str | int
    """Its number from 1, or what its row has in the column "id"."""
    fields: Mapping[str, str]
    """Column → text: those that the adapter reads, and others that its pattern may name."""
    adapter: str | None = None
    """Name of its adapter, where rows name them."""


def from_arguments(texts: Sequence[str], columns: Sequence[str]) -> Iterator[Input]:
    """Inputs from the command line, each as many texts as there are columns.

    Raises:
        InputError: a text is empty, or one of an input is missing.
    """
    if len(texts) % len(columns):
        raise InputError(
            f"The adapter reads {', '.join(columns)}: give {len(columns)} texts for each input. There {_are(len(texts))}."
        )
    for number, start in enumerate(range(0, len(texts), len(columns)), start=1):
        yield _input(number, texts[start : start + len(columns)], columns, f"Argument {start + 1}")


def from_lines(stream: BinaryIO, columns: Sequence[str], source: str, encoding: str = "utf-8") -> Iterator[Input]:
    """One input a line, read as they come; several texts with tabs between.

    Raises:
        InputError: an encoding that does not exist.
        DataError: a line that is not in the encoding, is empty, or has not one text for each column.
    """
    for number, (place, text) in enumerate(lines_of(stream, source, encoding), start=1):
        texts = text.split("\t") if len(columns) > 1 else [text]
        if len(texts) != len(columns):
            raise DataError(
                f"{place} has {len(texts)} texts, but the adapter reads {', '.join(columns)}: put a tab between them."
            )
        yield _input(number, texts, columns, place)


def lines_of(stream: BinaryIO, source: str, encoding: str = "utf-8") -> Iterator[tuple[str, str]]:
    """The place of each line, for messages, and its text without the line's end; read as they come.

    Raises:
        InputError: an encoding that does not exist.
        DataError: a line that is not in the encoding.
    """
    for number, line in enumerate(stream, start=1):
        place = f"{source}, line {number}"
        try:
            yield place, line.decode(encoding).removeprefix("\ufeff").rstrip("\r\n")
        except LookupError:
            raise InputError(f"There is no encoding {encoding!r}. Common ones are utf-8, latin-1 and cp1252.") from None
        except UnicodeDecodeError as error:
            raise DataError(
                f"{place} is not {encoding}: byte 0x{line[error.start]:02x}. Name what it is with --encoding."
            ) from error


def objects_of(stream: BinaryIO, source: str, shape: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The place of each line that is not blank, for messages, and its JSON object; read as they come.

    Args:
        stream: the bytes, in UTF-8.
        source: its name.
        shape: an object as it should be, for messages.

    Raises:
        DataError: a line that is no JSON object.
    """
    for place, line in lines_of(stream, source):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} is no JSON ({error}). Write one object a line: {shape}.") from None
        if not isinstance(record, dict):
            raise DataError(f"{place} is no JSON object. Write {shape}.")
        yield place, record


def from_table(
    path: Path, columns: Sequence[str], names: Sequence[str], form: Format, adapters: Sequence[str]
) -> Iterator[Input]:
    """One input a row of a file of any format. Columns that hold no plain values, such as SQuAD's answers, are left out.

    Args:
        path: the file.
        columns: what the adapter reads.
        names: the file's names for its text columns, in the same order; empty: the adapter's.
        form: how the file is written.
        adapters: names that may stand in the column "adapter"; empty: there is only one adapter.

    Raises:
        InputError: as `read_table`, or an adapter that is not there.
        DataError: as `read_table`; a column that is missing, or an empty text.
    """
    suffix = (Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()
    if form.format is None and suffix not in SUFFIXES:
        raise InputError(f"{path} has no known suffix ({', '.join((LINES, *SUFFIXES))}). Rename it, or give it by stdin.")
    if names and len(names) != len(columns):
        raise InputError(f"--text names {len(names)} columns, but the adapter reads {len(columns)}: {', '.join(columns)}.")
    table = read_table(path, form)
    own = dict(zip(columns, names or columns, strict=True))
    known = (*own, *own.values(), ID, ADAPTER)
    others = [name for name, cells in table.columns.items() if name not in known and all(map(_is_plain, cells))]
    texts = [text_cells(table, name, required=True) for name in own.values()]
    texts += [text_cells(table, name, required=False) for name in others]
    ids: Sequence[object] = table.columns.get(ID, range(1, table.size + 1))
    chosen: Sequence[object] = table.column(ADAPTER) if adapters else [None] * table.size
    for row, (key, name, *fields) in enumerate(zip(ids, chosen, *texts, strict=True)):
        if adapters and name not in adapters:
            raise DataError(f"{path}, {table.where([row])}: there is no adapter {name!r}. {near(str(name), adapters)}")
        yield Input(
            id=key if isinstance(key, int) else str(key),
            fields=dict(zip([*own, *others], fields, strict=True)),
            adapter=str(name) if adapters else None,
        )


def in_chunks(inputs: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    """The inputs in lists of this length; the last one may be shorter."""
    rest = iter(inputs)
    while chunk := list(islice(rest, size)):
        yield chunk


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def _is_plain(cell: object) -> bool:
    return cell is None or isinstance(cell, str | int | float)


def _input(number: int, texts: Sequence[str], columns: Sequence[str], place: str) -> Input:
    if not all(text.strip() for text in texts):
        raise DataError(f"{place} is an empty text. Leave it out.")
    return Input(id=number, fields=dict(zip(columns, texts, strict=True)))
