"""A data file as a table, whatever its format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmtailor.core.errors import InputError
from lmtailor.tasks.formats.delimited import read_delimited
from lmtailor.tasks.formats.jsonl import read_jsonl
from lmtailor.tasks.formats.parquet import read_parquet
from lmtailor.tasks.table import Table

FormatName = Literal["csv", "tsv", "jsonl", "parquet"]

SUFFIXES: dict[str, FormatName] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a data file is written. An option that its format does not have is refused."""

    format: FormatName | None = None
    """None: by the file's suffix."""
    encoding: str = "utf-8"
    """Of text files. A byte order mark is dropped."""
    delimiter: str | None = None
    """Of CSV and TSV; None: a comma, or a tab for TSV."""
    header: tuple[str, ...] | None = None
    """Names of the columns of a CSV or TSV file whose first line is data."""
    quoting: bool = True
    """Whether double quotes enclose fields of CSV and TSV; False: they are plain characters."""


def read_table(path: Path, form: Format | None = None) -> Table:
    """Read a data file.

    Raises:
        InputError: a missing file, an unknown suffix or encoding, an option that the format does not have.
        DataError: a file that is empty, damaged or not what the format says; see the format's reader.
    """
    form = form or Format()
    kind = form.format or SUFFIXES.get(path.suffix.lower())
    if not path.is_file():
        found = "it is a folder" if path.is_dir() else "there is no such file"
        raise InputError(f"Cannot read {path}: {found}.")
    if kind is None:
        known = ", ".join(SUFFIXES)
        raise InputError(f'{path} has no known suffix ({known}). Rename it, or set format = "csv", "tsv", "jsonl" or "parquet".')
    if kind in ("csv", "tsv"):
        delimiter = form.delimiter if form.delimiter is not None else {"csv": ",", "tsv": "\t"}[kind]
        return read_delimited(path, delimiter=delimiter, encoding=form.encoding, header=form.header, quoting=form.quoting)
    refused = {"delimiter": form.delimiter is not None, "header": form.header is not None, "quoting": not form.quoting}
    refused["encoding"] = kind == "parquet" and form.encoding != "utf-8"
    for option in [option for option, given in refused.items() if given]:
        raise InputError(f"{path}: {kind} files have no option {option}. Leave it out.")
    return read_jsonl(path, encoding=form.encoding) if kind == "jsonl" else read_parquet(path)
