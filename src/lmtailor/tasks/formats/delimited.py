"""CSV, TSV and their kin: one row a line, fields between delimiters, quotes around fields that hold either."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lmtailor.core.errors import DataError, InputError
from lmtailor.tasks.formats.text import read_text
from lmtailor.tasks.table import Table


def read_delimited(
    path: Path,
    *,
    delimiter: str,
    encoding: str = "utf-8",
    header: Sequence[str] | None = None,
    quoting: bool = True,
    surplus: bool = False,
) -> Table:
    """Read a whole file strictly: every row has as many fields as the header. Blank lines are skipped.

    Args:
        path: the file.
        delimiter: one character.
        encoding: of the file.
        header: the columns' names where the file's first line is data; None: the first line names them.
        quoting: whether double quotes enclose fields; False: they are characters like any other.
        surplus: whether rows may have more fields than the header, which are dropped.

    Raises:
        InputError: see `read_text`; a delimiter that is not one character.
        DataError: see `read_text`; ragged rows, broken quotes, a name that stands twice in the header, no rows.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise InputError(f'A delimiter is one character, such as "," or a tab; found {delimiter!r}.')
    rows, lines = _parse(path, read_text(path, encoding), delimiter, quoting)
    names = rows.pop(0) if header is None else list(header)
    if header is None:
        lines.pop(0)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"{path}: the header has {twice[0]!r} {names.count(twice[0])} times. Every column needs a name of its own."
        )
    if surplus:
        rows = [row[: len(names)] for row in rows]
    ragged = [index for index, row in enumerate(rows) if len(row) != len(names)]
    if ragged:
        first = ragged[0]
        others = f" {len(ragged) - 1} more rows are ragged." if len(ragged) > 1 else ""
        raise DataError(
            f"{path}: line {lines[first]} has {len(rows[first])} fields, but there are {len(names)} columns "
            f"({', '.join(names)}).{others} Is a delimiter or quote inside a text not quoted?"
        )
    cells: list[tuple[str, ...]] = list(zip(*rows, strict=True)) if rows else [() for _ in names]
    return Table(source=str(path), columns=dict(zip(names, cells, strict=True)), lines=lines)


def _parse(path: Path, text: str, delimiter: str, quoting: bool) -> tuple[list[list[str]], list[int]]:
    """The rows that are not blank, and the line on which each begins."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
    )
    rows: list[list[str]] = []
    lines: list[int] = []
    start = 1
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        hint = "If quotes are plain characters in this file, set quoting = false." if quoting else "Texts this long fit in JSONL."
        raise DataError(f"{path}: the row that begins on line {start} cannot be read ({error}). {hint}") from error
    return rows, lines
