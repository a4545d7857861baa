"""JSON: one list of objects, or one object whose values are objects."""

import json
from pathlib import Path

from lmtailor.core.errors import DataError
from lmtailor.tasks.formats.text import read_text
from lmtailor.tasks.table import Table, table_of_records

_SPACE = " \t\n\r"


def read_json(path: Path, *, encoding: str = "utf-8") -> Table:
    """Read a whole file; its columns are the keys of all records. A record's line is the one on which it begins; where
    several begin on one, their rows are told instead.

    Raises:
        InputError: see `read_text`.
        DataError: see `read_text`; no JSON, or neither a list nor an object of records.
    """
    text = read_text(path, encoding)
    start = _skip(text, 0)
    if text[start] not in "[{":
        raise DataError(f"{path} has no list of records. Write [{{…}}, {{…}}], or one object a line in a .jsonl file.")
    keyed, end = text[start] == "{", "}" if text[start] == "{" else "]"
    decoder = json.JSONDecoder()
    records: list[object] = []
    lines: list[int] = []
    place, line, counted = _skip(text, start + 1), 1, 0
    try:
        while text[place : place + 1] != end:
            if records:
                place = _expect(text, place, ",")
            if keyed:
                _, place = decoder.raw_decode(text, place)
                place = _expect(text, _skip(text, place), ":")
            line, counted = line + text.count("\n", counted, place), place
            record, after = decoder.raw_decode(text, place)
            if keyed and isinstance(record, list):
                raise DataError(
                    f"{path}: line {line} is a list, but a table is a list of objects, one a row, or an object "
                    'of objects. SQuAD\'s own files have format = "squad".'
                )
            records.append(record)
            lines.append(line)
            place = _skip(text, after)
        place = _skip(text, place + 1)
        if place < len(text):
            raise json.JSONDecodeError("Extra data", text, place)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: line {error.lineno} is no JSON ({error.msg}, column {error.colno}). One object a line belongs into a "
            ".jsonl file."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON that can be read ({error}).") from error
    return table_of_records(records, str(path), lines if len(set(lines)) == len(lines) else None)


def _skip(text: str, place: int) -> int:
    """The next place that is no white space."""
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place


def _expect(text: str, place: int, mark: str) -> int:
    """The place behind a mark and the space after it."""
    if text[place : place + 1] != mark:
        raise json.JSONDecodeError(f"Expecting '{mark}'", text, place)
    return _skip(text, place + 1)
