"""Prompts to write behind: arguments, lines, or the records of a JSON Lines file or of stdin."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from lmtailor.cli.texts import ID, LINES, lines_of, objects_of
from lmtailor.core.errors import DataError, near
from lmtailor.infer.generate import Prompt

PROMPT = "prompt"
"""Key of a record, besides "id"."""

SHAPE = '{"prompt": "…"}'


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A prompt and its name."""

    id: str | int
    """Its number from 1, or what its record has under "id"."""
    prompt: Prompt


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


def from_json_lines(stream: BinaryIO, source: str) -> Iterator[Asked]:
    """One record a line, {"prompt": …}, read as they come. Blank lines are skipped.

    Raises:
        DataError: a line that is not such a record; the message has its number.
    """
    for number, (place, record) in enumerate(objects_of(stream, source, SHAPE), start=1):
        if PROMPT not in record:
            raise DataError(f'{place} has no "{PROMPT}". {near(PROMPT, list(record))}')
        key, text = record.get(ID, number), record[PROMPT]
        if not isinstance(text, str):
            raise DataError(f"{place}: the prompt must be a text; found {type(text).__name__}.")
        yield _asked(key if isinstance(key, int) else str(key), number, place, text)


READERS: Mapping[str, Callable[[BinaryIO, str], Iterator[Asked]]] = {LINES: from_lines, ".jsonl": from_json_lines}
"""How files of prompts are read, by suffix."""


def _asked(key: str | int, number: int, place: str, text: str) -> Asked:
    if not text.strip():
        raise DataError(f"{place[0].upper()}{place[1:]} is an empty prompt. Leave it out.")
    return Asked(id=key, prompt=Prompt(name=place, number=number - 1, text=text))
