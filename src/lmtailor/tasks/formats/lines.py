"""Files of plain lines: one text a line, and others beside it whose lines belong to the same rows."""

from collections.abc import Mapping
from pathlib import Path

from lmtailor.core.errors import DataError, InputError
from lmtailor.tasks.formats.text import read_text
from lmtailor.tasks.table import Table

TEXT = "text"
"""The column of the file itself."""


def read_lines(path: Path, *, encoding: str = "utf-8", beside: Mapping[str, str] | None = None) -> Table:
    """Read one text a line as the column `text`, and those of other files as columns of their own.

    Args:
        path: the file.
        encoding: of all files.
        beside: column -> its file in the same folder: another suffix (".target" for train.target beside train.source), or another
            stem ("labels" for labels.dev beside s1.dev).

    Raises:
        InputError: see `read_text`; a column `text` beside.
        DataError: see `read_text`; files with different numbers of lines.
    """
    columns: dict[str, list[object]] = {TEXT: list(_lines(path, encoding))}
    for name, other in (beside or {}).items():
        if name == TEXT:
            raise InputError(f"{TEXT!r} is the column of {path.name} itself. Give {other!r} another name.")
        file = path.parent / (path.stem + other if other.startswith(".") else other + path.suffix)
        columns[name] = list(_lines(file, encoding))
        own, there = len(columns[TEXT]), len(columns[name])
        if own != there:
            raise DataError(f"{path} has {own} lines, but {file} has {there}. Lines of the same number belong together.")
    return Table(source=str(path), columns=columns, lines=range(1, len(columns[TEXT]) + 1))


def _lines(path: Path, encoding: str) -> list[str]:
    """The lines without their ends; a last line end begins no further line."""
    return [line.removesuffix("\r") for line in read_text(path, encoding).removesuffix("\n").split("\n")]
