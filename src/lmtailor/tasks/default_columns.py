"""The columns of a task that names none: those that a kind's own file formats have."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from lmtailor.core.errors import InputError
from lmtailor.tasks.example import TaskKind
from lmtailor.tasks.read import Format, format_of


def named_columns(text: str | Sequence[str]) -> tuple[str, ...]:
    """One or several names as a tuple."""
    return (text,) if isinstance(text, str) else tuple(text)


def text_columns(kind: TaskKind, text: str | Sequence[str]) -> tuple[str, ...]:
    """The text columns that are named, or else those of a kind's own files.

    Raises:
        InputError: none is named, and the kind has no files of its own.
    """
    named = named_columns(text) or {"labelling": ("text",), "span": ("question", "context")}.get(kind, ())
    if not named:
        chats = " Conversations and instructions need none: chat = true in a card." if kind == "generation" else ""
        raise InputError(
            f"Which column has the texts? Name it, two for a pair: --text COLUMN, or text under [columns] in a card.{chats}"
        )
    return named


def label_column(kind: TaskKind, label: str | None, files: Iterable[str | Path | None], form: Format | None = None) -> str:
    """The column of labels that is named, or else that of a kind's own files: upos of CoNLL-U, tags of CoNLL, answers of SQuAD.

    Args:
        kind: of the task.
        label: the column; None: none is named.
        files: the task's files, the first of which decides.
        form: how they are written.
    """
    if label is not None:
        return label
    if kind == "span":
        return "answers"
    first = next((Path(file) for file in files if file is not None), None)
    if kind == "labelling" and first is not None:
        return {"conllu": "upos", "conll": "tags"}.get(format_of(first, form), "label")
    return "label"
