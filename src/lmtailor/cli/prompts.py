"""Prompts to write behind: arguments, lines, or the records of a JSON Lines file or of stdin.

A record may have the columns that an adapter reads, instead of a prompt; then the adapter's own pattern makes the prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lmtailor.cli.texts import ID, LINES, lines_of, objects_of
from lmtailor.core.errors import DataError, near
from lmtailor.infer.generate import Prompt

PROMPT = "prompt"
"""Key of a record, besides "id"."""

SHAPE = '{"prompt": "…"}'


@dataclass(frozen=True, kw_only=True)
class Row:
    """Columns of which an adapter's pattern makes a prompt."""

    name: str
    """For messages."""
    number: int
    """Names its draws, and its text in a stream."""
    fields: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is written behind, and its name."""

    id: str | int
    """Its number from 1, or what its record has under "id"."""
    prompt: Prompt | Row


def from_arguments(prompts: Sequence[str]) -> Iterator[Asked]:
    """Prompts of the command line.

    Raises:
        DataError: one is empty.
    """
    for number, text in enumerate(prompts, start=1):
        yield _asked(number, number, f"prompt {number}", text)


def from_lines(stream: BinaryIO, source: str) -> Iterator[Asked]:
    """One prompt a line in UTF-8, read as they come.

    Raises:
        DataError: a line that is empty or not in UTF-8; the message has its number.
    """
    for number, (place, text) in enumerate(lines_of(stream, source), start=1):
        yield _asked(number, number, place, text)


def from_json_lines(stream: BinaryIO, source: str, columns: Sequence[str] = ()) -> Iterator[Asked]:
    """One record a line, {"prompt": …} or the columns that an adapter reads, read as they come. Blank lines are skipped.

    Args:
        stream: the bytes, in UTF-8.
        source: its name, for messages.
        columns: what the adapter reads; none without an adapter that writes by a pattern.

    Raises:
        DataError: a line that is not such a record; the message has its number.
    """
    for number, (place, record) in enumerate(objects_of(stream, source, SHAPE), start=1):
        key = record.get(ID, number)
        name = key if isinstance(key, int) else str(key)
        if columns and all(column in record for column in columns):
            yield _row(name, number, place, record, columns)
            continue
        if PROMPT not in record:
            or_columns = f" The adapter reads {', '.join(columns)}." if columns else ""
            raise DataError(f'{place} has no "{PROMPT}". {near(PROMPT, list(record))}{or_columns}')
        text = record[PROMPT]
        if not isinstance(text, str):
            raise DataError(f"{place}: the prompt must be a text; found {type(text).__name__}.")
        yield _asked(name, number, place, text)


FILES = (LINES, ".jsonl")
"""Suffixes of files of prompts."""


def from_file(stream: BinaryIO, path: Path, columns: Sequence[str] = ()) -> Iterator[Asked]:
    """Prompts of a file with one of these suffixes; see `from_lines` and `from_json_lines`."""
    if path.suffix.lower() == LINES:
        return from_lines(stream, str(path))
    return from_json_lines(stream, str(path), columns)


def _row(key: str | int, number: int, place: str, record: Mapping[str, object], columns: Sequence[str]) -> Asked:
    if PROMPT in record and PROMPT not in columns:
        raise DataError(f'{place} has a "{PROMPT}" and the columns that the adapter reads ({", ".join(columns)}). Leave one out.')
    fields = {name: text for name, text in record.items() if isinstance(text, str)}
    other = next((column for column in columns if column not in fields or not fields[column].strip()), None)
    if other is not None:
        raise DataError(f'{place}: "{other}" must be a text, not empty; found {record[other]!r}.')
    return Asked(id=key, prompt=Row(name=place, number=number - 1, fields=fields))


def _asked(key: str | int, number: int, place: str, text: str) -> Asked:
    if not text.strip():
        raise DataError(f"{place[0].upper()}{place[1:]} is an empty prompt. Leave it out.")
    return Asked(id=key, prompt=Prompt(name=place, number=number - 1, text=text))
