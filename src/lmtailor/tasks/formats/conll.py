"""Words in columns, as the shared tasks of CoNLL have named entities: one word a line, a blank line between sentences."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmtailor.core.errors import DataError, InputError
from lmtailor.tasks.formats.conllu import unspaced
from lmtailor.tasks.formats.text import read_text
from lmtailor.tasks.table import Table

HEADER = ("text", "tags")
"""The columns of a file that no header names: a word and its tag."""

_BORDER = "-DOCSTART-"
"""What stands for a word on the line that begins a document; such a line is no sentence."""


def read_conll(path: Path, *, delimiter: str = "\t", encoding: str = "utf-8", header: Sequence[str] | None = None) -> Table:
    """Read a whole file: one row a sentence, whose cells are the words' values with one space between.

    Whitespace inside a value becomes a no-break space. A line before a sentence that begins with "# " and has another number of
    fields than there are columns is a comment.

    Args:
        path: the file.
        delimiter: one character between the fields of a line, a tab or a space; of several spaces in a row each run is one.
        encoding: of the file.
        header: names of the columns; None: `HEADER`.

    Raises:
        InputError: see `read_text`; a delimiter that is not one character, a header in which a name stands twice.
        DataError: see `read_text`; with the line: another number of fields than columns, or an empty field.
    """
    names = list(HEADER if header is None else header)
    if len(delimiter) != 1 or delimiter in "\r\n":
        raise InputError(f"A delimiter is one character, such as a tab or a space; found {delimiter!r}.")
    if len(set(names)) != len(names):
        raise InputError(f"The header is {names}. Every column needs a name of its own.")
    cells: dict[str, list[object]] = {name: [] for name in names}
    lines: list[int] = []
    for number, sentence in _sentences(path, read_text(path, encoding), delimiter, names):
        lines.append(number)
        for name, values in zip(names, zip(*sentence, strict=True), strict=True):
            cells[name].append(" ".join(map(unspaced, values)))
    return Table(source=str(path), columns=cells, lines=lines)


def _sentences(path: Path, text: str, delimiter: str, names: Sequence[str]) -> Iterator[tuple[int, list[list[str]]]]:
    """The line on which each sentence begins, and the fields of its words."""
    words: list[list[str]] = []
    start = 0
    for number, line in enumerate(text.split("\n"), start=1):
        bare = line.strip(" \r") if delimiter == " " else line.removesuffix("\r")
        if not bare.strip() or bare.startswith(_BORDER):
            if words:
                yield start, words
            words = []
            continue
        fields = re.split(" +", bare) if delimiter == " " else bare.split(delimiter)  # a no-break space is part of a word
        if not words and bare.startswith("# ") and len(fields) != len(names):
            continue
        empty = sum(not field.strip() for field in fields)
        if len(fields) != len(names) or empty:
            raise DataError(
                f"{path}: line {number} has {_counted(len(fields), empty)}, but there are {len(names)} columns "
                f"({', '.join(names)}). {_advice(bare, delimiter)}"
            )
        start = start if words else number
        words.append(fields)
    if words:
        yield start, words


def _counted(fields: int, empty: int) -> str:
    return f"{fields} field{'' if fields == 1 else 's'}" + (f", {empty} of them empty" if empty else "")


def _advice(line: str, delimiter: str) -> str:
    """What would read the line."""
    if delimiter == "\t" and "\t" not in line and " " in line.strip():
        return "It has spaces and no tab: set the delimiter to ' ', and a header if the file has other columns."
    return "Set the delimiter, or name the file's columns in a header."
