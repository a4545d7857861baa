"""A data file as a table, whatever its format."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, get_args

from lmtailor.core.errors import InputError
from lmtailor.tasks.file_formats import FormatName
from lmtailor.tasks.formats.conll import read_conll
from lmtailor.tasks.formats.conllu import read_conllu
from lmtailor.tasks.formats.delimited import read_delimited
from lmtailor.tasks.formats.json_list import read_json
from lmtailor.tasks.formats.jsonl import read_jsonl
from lmtailor.tasks.formats.lines import read_lines
from lmtailor.tasks.formats.nested import read_nested
from lmtailor.tasks.formats.parquet import read_parquet
from lmtailor.tasks.formats.squad import read_squad
from lmtailor.tasks.formats.triples import read_dart, read_webnlg
from lmtailor.tasks.table import Table

SUFFIXES: dict[str, FormatName] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".conllu": "conllu",
    ".conll": "conll",
    ".xml": "webnlg",
}
"""Suffix -> format. Before them all but Parquet may be packed: ".csv.gz"."""


_OPTIONS: Mapping[FormatName, tuple[str, ...]] = {
    "csv": ("encoding", "delimiter", "header", "quoting", "surplus"),
    "tsv": ("encoding", "delimiter", "header", "quoting", "surplus"),
    "json": ("encoding",),
    "jsonl": ("encoding",),
    "parquet": (),
    "conllu": ("encoding",),
    "conll": ("encoding", "delimiter", "header"),
    "nested": ("encoding",),
    "squad": ("encoding",),
    "webnlg": ("encoding",),
    "dart": ("encoding",),
    "lines": ("encoding", "beside"),
}
"""The options that each format has."""


class _Reader(Protocol):
    """A reader whose format has no option but the encoding."""

    def __call__(self, path: Path, *, encoding: str) -> Table: ...


_READERS: Mapping[FormatName, _Reader] = {
    "json": read_json,
    "jsonl": read_jsonl,
    "conllu": read_conllu,
    "nested": read_nested,
    "squad": read_squad,
    "webnlg": read_webnlg,
    "dart": read_dart,
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a data file is written. An option that its format does not have is refused."""

    format: FormatName | None = None
    """See `FormatName`. None: by the file's suffix. Of webnlg a folder is read too."""
    encoding: str = "utf-8"
    """Of text files. A byte order mark is dropped."""
    delimiter: str | None = None
    """Of CSV, TSV and CoNLL; None: a comma for CSV, a tab for the others."""
    header: tuple[str, ...] | None = None
    """Names of the columns of a CSV or TSV file whose first line is data, and of a CoNLL file; None in the latter: text, tags."""
    quoting: bool = True
    """Whether double quotes enclose fields of CSV and TSV; False: they are plain characters."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Of lines: further column -> its file in the same folder, another suffix (".target") or another stem ("labels")."""
    surplus: bool = False
    """Whether rows of CSV and TSV may have more fields than there are columns, which are dropped."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """Column as the file has it -> its name in the task; patterns take names of letters, digits and underscores."""


def format_of(path: Path, form: Format | None = None) -> FormatName:
    """The format of a data file: what `form` says, or else by its suffix.

    Raises:
        InputError: neither says.
    """
    if form is not None and form.format is not None:
        return form.format
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = SUFFIXES.get(next(iter(suffixes[-2:-1] if packed else suffixes[-1:]), ""))
    if kind is None or (packed and "encoding" not in _OPTIONS[kind]):
        names = get_args(FormatName)
        raise InputError(
            f"{path} has no known suffix ({', '.join(SUFFIXES)}). Rename it, or set format to one of {', '.join(names)}."
        )
    return kind


def read_table(path: Path, form: Format | None = None) -> Table:
    """Read a data file.

    Raises:
        InputError: a missing file, an unknown suffix or encoding, an option that the format does not have.
        DataError: a file that is empty, damaged or not what the format says; see the format's reader.
    """
    form = form or Format()
    if not path.is_file() and not (form.format == "webnlg" and path.is_dir()):
        found = "it is a folder" if path.is_dir() else "there is no such file"
        raise InputError(f"Cannot read {path}: {found}.")
    kind = format_of(path, form)
    default = Format()
    for option in ("encoding", "delimiter", "header", "quoting", "surplus", "beside"):
        if option not in _OPTIONS[kind] and getattr(form, option) != getattr(default, option):
            raise InputError(f"{path}: {kind} files have no option {option}. Leave it out.")
    table = _read(path, kind, form)
    return table.renamed(form.rename) if form.rename else table


def _read(path: Path, kind: FormatName, form: Format) -> Table:
    tab = "\t" if form.delimiter is None else form.delimiter
    if kind in ("csv", "tsv"):
        delimiter = "," if form.delimiter is None and kind == "csv" else tab
        return read_delimited(
            path,
            delimiter=delimiter,
            encoding=form.encoding,
            header=form.header,
            quoting=form.quoting,
            surplus=form.surplus,
        )
    if kind == "conll":
        return read_conll(path, delimiter=tab, encoding=form.encoding, header=form.header)
    if kind == "lines":
        return read_lines(path, encoding=form.encoding, beside=form.beside)
    if kind == "parquet":
        return read_parquet(path)
    return _READERS[kind](path, encoding=form.encoding)
