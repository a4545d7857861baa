"""JSON Lines whose objects hold others, as SuperGLUE has them, as flat rows.

An object inside an object gives its members as columns, with both names and an underscore between; a list of objects gives a row
for each of them, which repeats what stands around it. So MultiRC's
{"passage": {"text": …, "questions": [{"question": …, "answers": [{"text": …, "label": …}, …]}, …]}} has the columns
passage_text, passage_questions_question, passage_questions_answers_text and passage_questions_answers_label, one row an answer.
"""

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

from lmtailor.core.errors import DataError
from lmtailor.tasks.formats.jsonl import read_jsonl
from lmtailor.tasks.table import Table

MAX_ROWS = 10_000_000
"""The most rows that one file may become: lists beside lists multiply."""


def read_nested(path: Path, *, encoding: str = "utf-8") -> Table:
    """Read a whole file.

    Raises:
        InputError, DataError: see `read_jsonl`; more than `MAX_ROWS` rows, a name that stands for two columns.
    """
    table = read_jsonl(path, encoding=encoding)
    assert table.lines is not None
    rows: list[dict[str, object]] = []
    lines: list[int] = []
    for line, *cells in zip(table.lines, *table.columns.values(), strict=True):
        present = {name: cell for name, cell in zip(table.columns, cells, strict=True) if cell is not None}
        try:
            for row in _flat(present, ""):
                rows.append(row)
                lines.append(line)
                if len(rows) > MAX_ROWS:
                    raise _TooManyRowsError
        except _TooManyRowsError:
            raise DataError(f"{path} becomes more than {MAX_ROWS} rows (line {line}).") from None
        except KeyError as error:
            raise DataError(f"{path}: line {line} has two columns that would be named {error.args[0]!r}. Rename one.") from error
    columns = dict.fromkeys(name for row in rows for name in row)
    return Table(source=str(path), columns={name: [row.get(name) for row in rows] for name in columns}, lines=lines)


class _TooManyRowsError(Exception):
    """More than `MAX_ROWS`; raised before they are made, since a few lists beside each other can fill any memory."""


def _flat(record: Mapping[str, object], prefix: str) -> Iterator[dict[str, object]]:
    """The rows of an object; a member's name that another one has already raises KeyError."""
    parts: list[list[dict[str, object]]] = []
    for name, cell in record.items():
        own = _rows_of(cell, f"{prefix}{name}")
        parts.append([{f"{prefix}{name}": cell}] if own is None else own)
    if prod(map(len, parts)) > MAX_ROWS:
        raise _TooManyRowsError
    rows: list[dict[str, object]] = [{}]
    for part in parts:
        rows = [_joined(row, more) for row in rows for more in part]
    yield from rows


def _rows_of(cell: object, name: str) -> list[dict[str, object]] | None:
    """The rows that a member stands for; None: it is a plain value."""
    if isinstance(cell, Mapping):
        return list(_flat(cell, f"{name}_"))
    if isinstance(cell, list) and cell and all(isinstance(one, Mapping) for one in cell):
        rows: list[dict[str, object]] = []
        for one in cell:
            rows += _flat(one, f"{name}_")
            if len(rows) > MAX_ROWS:
                raise _TooManyRowsError
        return rows
    return None


def _joined(row: dict[str, object], more: Mapping[str, object]) -> dict[str, object]:
    for name in more:
        if name in row:
            raise KeyError(name)
    return row | dict(more)
