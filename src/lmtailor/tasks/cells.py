"""Cells of a table as texts and labels, with the rows named where they are neither."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from lmtailor.core.errors import DataError, near
from lmtailor.tasks.example import TaskKind
from lmtailor.tasks.table import Table

Span = tuple[tuple[str, ...], tuple[int, ...]]
"""Texts of answers, and the characters at which they begin."""

_SPACES = re.compile(r"[ \t\r\n]+")
"""What stands between words; a no-break space does not."""

_SHOWN = 80
"""Characters of a cell that a message shows."""


def text_cells(table: Table, column: str, *, required: bool) -> list[str]:
    """The texts of a column. Numbers and booleans are written out; a missing cell is an empty text.

    Args:
        table: where the column is.
        column: its name.
        required: whether an empty text (nothing but whitespace) is an error.

    Raises:
        DataError: the column is not there, a cell is a list or a table, or a required text is empty.
    """
    cells = table.column(column)
    odd = [row for row, cell in enumerate(cells) if not isinstance(cell, str | int | float | None)]
    if odd:
        raise DataError(
            f"{table.source}: column {column!r} holds {type(cells[odd[0]]).__name__}, not text, in {table.where(odd)}."
        )
    texts = [str(cell) if isinstance(cell, float) and not _is_nan(cell) else _written(cell) for cell in cells]
    broken = [row for row, text in enumerate(texts) if not _is_unicode(text)]
    if broken:
        raise DataError(f"{table.source}: column {column!r} holds surrogates, which are no characters, in {table.where(broken)}.")
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if required and empty:
        raise DataError(
            f"{table.source}: {len(empty)} of {table.size} rows have an empty text in column {column!r} ({table.where(empty)}). "
            "Fill them in or remove them."
        )
    return texts


def label_cells(table: Table, column: str, kind: TaskKind, label_map: Mapping[str, str]) -> list[str] | list[float]:
    """The labels of a column: names for classification (through the label map), finite numbers for regression.

    Names are stripped of outer whitespace; 1, 1.0 and "1" are the label "1", true is "true".

    Raises:
        DataError: the column is not there, labels are missing, a name is not in the label map, or a value is no number.
    """
    cells = table.column(column)
    missing = [row for row, cell in enumerate(cells) if cell is None or not str(cell).strip() or _is_nan(cell)]
    if missing:
        raise DataError(
            f"{table.source}: {len(missing)} of {table.size} rows have no label in column {column!r} ({table.where(missing)}). "
            "Fill them in, remove them, or use the file as unlabelled text."
        )
    return _numbers(table, column, cells) if kind == "regression" else _names(table, column, cells, label_map)


def reference_cells(table: Table, column: str) -> list[tuple[str, ...]]:
    """The texts that would be right, for each row: the cell's own, those of a list of texts, or those of SQuAD's answers.

    Raises:
        DataError: the column is not there, or a cell has no text, an empty one, or what is no text.
    """
    cells = table.column(column)
    found = [_texts(cell) for cell in cells]
    bad = [row for row, own in enumerate(found) if not own or not all(isinstance(one, str) and one.strip() for one in own)]
    if bad:
        raise DataError(
            f"{table.source}: {len(bad)} of {table.size} rows have no text to be written in column {column!r} "
            f"({table.where(bad)}; the first is {cells[bad[0]]!r}). Fill them in, or remove them."
        )
    texts = [tuple(str(one) for one in own) for own in found]
    broken = [row for row, own in enumerate(texts) if not all(map(_is_unicode, own))]
    if broken:
        raise DataError(f"{table.source}: column {column!r} holds surrogates, which are no characters, in {table.where(broken)}.")
    return texts


def _texts(cell: object) -> tuple[object, ...]:
    """What a cell of references holds."""
    if (span := _span(cell)) is not None:
        return span[0]
    return tuple(cell) if isinstance(cell, list | tuple) else (cell,)


def word_cells(table: Table, column: str, what: str) -> list[tuple[str, ...]]:
    """The words, or their tags, of each row: what stands between the spaces of a text, or the items of a list.

    Whitespace inside an item of a list becomes a no-break space, since a space ends a word.

    Args:
        table: where the column is.
        column: its name.
        what: "words" or "tags", for messages. Tags hold no whitespace of any kind.

    Raises:
        DataError: the column is not there; a row has no words or an empty one; a cell is neither text nor a list of texts or
            numbers; a tag holds whitespace.
    """
    cells = table.column(column)
    found = [_items(cell) for cell in cells]
    bad = [row for row, own in enumerate(found) if not own or not all(item.strip() for item in own)]
    if bad:
        raise DataError(
            f"{table.source}: {len(bad)} of {table.size} rows have no {what}, or an empty one, in column {column!r} "
            f"({table.where(bad)}; the first is {_short(cells[bad[0]])}). Write {what} with one space between, or as a list."
        )
    broken = [row for row, own in enumerate(found) if not all(map(_is_unicode, own))]
    if broken:
        raise DataError(f"{table.source}: column {column!r} holds surrogates, which are no characters, in {table.where(broken)}.")
    spaced = [row for row, own in enumerate(found) if what == "tags" and any(item.split() != [item] for item in own)]
    if spaced:
        raise DataError(f"{table.source}: tags in column {column!r} hold whitespace, in {table.where(spaced)}. Tags have none.")
    return found


def span_cells(table: Table, column: str, contexts: Sequence[str]) -> list[Span]:
    """The answers of each row that are parts of its text: their texts, and the characters at which they begin.

    A cell is a list of mappings with "text" and "answer_start", as SQuAD has them, or one mapping of two lists, as `datasets`
    has it.

    Args:
        table: where the column is. Where it has a column "id" too, messages name rows by it.
        column: its name.
        contexts: the text of each row that has the answers.

    Raises:
        DataError: the column is not there, a row has no answers or something else, or an answer does not stand where it should.
    """
    cells = table.column(column)
    names = table.columns.get("id", [None] * table.size)
    found: list[Span] = []
    for row, (cell, context, name) in enumerate(zip(cells, contexts, names, strict=True)):
        own = _span(cell)
        place = table.where([row]) + (f" (the question {name})" if isinstance(name, str) else "")
        if own is None:
            raise DataError(
                f"{table.source}: {place} has no answers in column {column!r}, but {_short(cell)}. Give a list of mappings with "
                "text and answer_start."
            )
        for text, start in zip(*own, strict=True):
            if start < 0 or context[start : start + len(text)] != text:
                there = context[start : start + len(text)] if start >= 0 else ""
                raise DataError(
                    f"{table.source}: {place} has the answer {_short(text)} at character {start}, where its text has "
                    f"{_short(there)}. Starts count characters from 0."
                )
        found.append(own)
    return found


def _span(cell: object) -> Span | None:
    """The texts and starts of a cell; None where it has none, or is something else."""
    if isinstance(cell, list | tuple):
        pairs = [(one.get("text"), one.get("answer_start")) if isinstance(one, Mapping) else (None, None) for one in cell]
    elif isinstance(cell, Mapping):
        texts, starts = cell.get("text"), cell.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            return None
        pairs = list(zip(texts, starts, strict=True))
    else:
        return None
    good = [(text, start) for text, start in pairs if isinstance(text, str) and text.strip() and type(start) is int]
    if not good or len(good) < len(pairs):
        return None
    return tuple(text for text, _ in good), tuple(start for _, start in good)


def _items(cell: object) -> tuple[str, ...]:
    """The words of a cell; nothing where it is no cell of words."""
    if isinstance(cell, str):
        return tuple(item for item in _SPACES.split(cell) if item)
    if isinstance(cell, list | tuple) and all(isinstance(item, str | int) for item in cell):
        return tuple("\u00a0".join(_written(item).split()) for item in cell)
    return ()


def _short(cell: object) -> str:
    shown = repr(cell)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} …"


def _names(table: Table, column: str, cells: Sequence[object], label_map: Mapping[str, str]) -> list[str]:
    odd = [row for row, cell in enumerate(cells) if not isinstance(cell, str | int | float)]
    if odd:
        raise DataError(
            f"{table.source}: column {column!r} holds {type(cells[odd[0]]).__name__}, not labels, in {table.where(odd)}."
        )
    return [name for (name,) in mapped(table, [(_written(cell).strip(),) for cell in cells], label_map)]


def mapped(table: Table, names: Sequence[tuple[str, ...]], label_map: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The labels of each row through the label map; an empty map leaves them as they are.

    Raises:
        DataError: a label is not in the map.
    """
    if not label_map:
        return list(names)
    strange = Counter(name for own in names for name in own if name not in label_map)
    if strange:
        name, count = strange.most_common(1)[0]
        rows = [row for row, own in enumerate(names) if name in own]
        raise DataError(
            f"{table.source}: the label {name!r} ({f'{count} times, ' if count > 1 else ''}{table.where(rows)}) is not in the "
            f"label map. {near(name, label_map)} Add it, also where it keeps its name."
        )
    return [tuple(label_map[name] for name in own) for own in names]


def _numbers(table: Table, column: str, cells: Sequence[object]) -> list[float]:
    numbers: list[float] = []
    bad: list[int] = []
    for row, cell in enumerate(cells):
        try:
            number = math.nan if isinstance(cell, bool) else float(str(cell))
        except ValueError:
            number = math.nan
        numbers.append(number)
        if not math.isfinite(number):
            bad.append(row)
    if bad:
        raise DataError(
            f"{table.source}: {len(bad)} of {table.size} labels in column {column!r} are no finite numbers "
            f"({table.where(bad)}; the first is {cells[bad[0]]!r}). In regression every label is one."
        )
    return numbers


def _written(cell: object) -> str:
    """A cell as text: 1.0 as "1" (tables with missing numbers turn integers into floats), true as "true"."""
    if cell is None or _is_nan(cell):
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)


def _is_unicode(text: str) -> bool:
    """Whether a tokenizer can take the text: JSON can write lone surrogates, which have no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_nan(cell: object) -> bool:
    return isinstance(cell, float) and math.isnan(cell)
