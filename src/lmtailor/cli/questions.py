"""Prompts and choices to score: arguments, or the records of a JSON Lines file or of stdin."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from lmtailor.cli.texts import ID, objects_of
from lmtailor.core.errors import DataError, near
from lmtailor.infer.asking import Question
from lmtailor.infer.choices import domain_of

SHAPE = '{"prompt": "…", "choices": ["…"]}'
PROMPT, CHOICES, DOMAIN = "prompt", "choices", "domain"
"""Keys of a record, besides "id"."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One prompt."""

    id: str | int
    """Its number from 1, or what its record has under "id"."""
    question: Question
    domain: Question | None
    """Its domain prompt, where pmi is asked for."""


def from_arguments(prompts: Sequence[str], choices: Sequence[str], domain: str | None) -> Iterator[Record]:
    """Prompts of the command line, all with the same choices.

    Raises:
        DataError: no choices, or an empty one.
    """
    for number, prompt in enumerate(prompts, start=1):
        yield _record(number, f"prompt {number}", prompt, list(choices), domain)


def from_json_lines(stream: BinaryIO, source: str, choices: Sequence[str], domain: str | None, *, pmi: bool) -> Iterator[Record]:
    """One prompt a line, {"prompt": …, "choices": […]}, read as they come. Blank lines are skipped.

    Args:
        stream: the bytes, in UTF-8.
        source: its name, for messages.
        choices: of records that name none.
        domain: of records that name none.
        pmi: whether domain prompts are asked for.

    Raises:
        DataError: a line that is not such a record; the message has its number.
    """
    for number, (place, record) in enumerate(objects_of(stream, source, SHAPE), start=1):
        if PROMPT not in record:
            raise DataError(f'{place} has no "{PROMPT}". {near(PROMPT, list(record))}')
        if CHOICES not in record and not choices:
            raise DataError(f'{place} has no "{CHOICES}". {near(CHOICES, list(record))} Or give choices for all with --choice.')
        own_domain = record.get(DOMAIN, domain) if pmi else None
        key = record.get(ID, number)
        yield _record(
            key if isinstance(key, int) else str(key), place, record[PROMPT], record.get(CHOICES, list(choices)), own_domain
        )


def _record(key: str | int, place: str, prompt: object, choices: object, domain: object) -> Record:
    if not isinstance(prompt, str):
        raise DataError(f"{place}: the prompt must be a text; found {json.dumps(prompt, ensure_ascii=False)}.")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) and choice for choice in choices):
        shown = json.dumps(choices, ensure_ascii=False)
        raise DataError(f"{place}: choices must be a list of texts, none of them empty; found {shown}.")
    if not isinstance(domain, str | None):
        raise DataError(f"{place}: the domain prompt must be a text; found {json.dumps(domain, ensure_ascii=False)}.")
    question = Question(name=place, prompt=prompt, choices=tuple(choices))
    return Record(id=key, question=question, domain=None if domain is None else domain_of(question, domain))
