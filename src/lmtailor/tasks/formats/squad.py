"""SQuAD 1.1: questions to paragraphs, and the parts of these that answer them (Rajpurkar et al. 2016, arXiv:1606.05250)."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from lmtailor.core.errors import DataError
from lmtailor.tasks.formats.whole_json import load_json
from lmtailor.tasks.table import Table

COLUMNS = ("question", "context", "answers", "title", "id")


def read_squad(path: Path, *, encoding: str = "utf-8") -> Table:
    """Read a whole file: one row a question, with the columns `question`, `context`, `answers`, `title` and `id`.

    An answer is a mapping with "text" and "answer_start", the character of the context at which it begins. A question without
    answers has None for them.

    Raises:
        InputError, DataError: see `load_json`; something else than SQuAD's articles, paragraphs and questions, with the place;
            a question that the text does not answer, as SQuAD 2.0 has them.
    """
    held = load_json(path, encoding=encoding)
    if not isinstance(held, Mapping) or not isinstance(held.get("data"), list):
        raise DataError(f'{path} is no SQuAD: it must be an object with a list "data". A list of records has format = "json".')
    rows = list(_questions(path, held["data"]))
    cells = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    return Table(source=str(path), columns=dict(zip(COLUMNS, map(list, cells), strict=True)))


def _questions(path: Path, articles: list[object]) -> Iterator[tuple[object, ...]]:
    for number, article in enumerate(articles, start=1):
        title = article.get("title") if isinstance(article, Mapping) else None
        place = f"article {number}" + (f" ({title})" if isinstance(title, str) else "")
        for count, paragraph in enumerate(_members(path, article, "paragraphs", place), start=1):
            where = f"{place}, paragraph {count}"
            context = _text(path, paragraph, "context", where)
            for order, asked in enumerate(_members(path, paragraph, "qas", where), start=1):
                yield _question(path, asked, f"{where}, question {order}", context, title)


def _question(path: Path, asked: object, where: str, context: str, title: object) -> tuple[object, ...]:
    name = asked.get("id") if isinstance(asked, Mapping) else None
    named = f"the question {name}" if isinstance(name, str) else where
    question = _text(path, asked, "question", named)
    assert isinstance(asked, Mapping)
    if asked.get("is_impossible"):
        raise DataError(
            f"{path}: {named} has no answer in its text, as SQuAD 2.0 allows. A span is always there: leave such questions out."
        )
    answers = asked.get("answers")
    for answer in _members(path, asked, "answers", named) if answers is not None else ():
        _text(path, answer, "text", f"an answer of {named}")
        start = answer.get("answer_start") if isinstance(answer, Mapping) else None
        if not isinstance(start, int) or isinstance(start, bool):
            raise DataError(f'{path}: an answer of {named} has the "answer_start" {start!r}, which is no number of a character.')
    return question, context, answers or None, title, name if isinstance(name, str) else where


def _members(path: Path, parent: object, name: str, place: str) -> list[object]:
    found = parent.get(name) if isinstance(parent, Mapping) else None
    if not isinstance(found, list):
        raise DataError(f'{path}: {place} has no list "{name}". This is no SQuAD.')
    return found


def _text(path: Path, parent: object, name: str, place: str) -> str:
    found = parent.get(name) if isinstance(parent, Mapping) else None
    if not isinstance(found, str) or not found.strip():
        raise DataError(f'{path}: {place} has no text "{name}". This is no SQuAD.')
    return found
