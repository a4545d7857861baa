"""Conversations and instructions as a task of generation.

    Alpaca        {"instruction": …, "input": …, "output": …}                              input may be empty or missing
    ShareGPT      {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …]}
    messages      {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]}

Which of them a row is, is told by its columns; a column `system` is what the system says first. An example's column
`conversation` has all turns before the last of the assistant, as `turns_text` writes them, and its reference is that turn. So it
is evaluated by what the model writes there, while a `Chat` readout learns from every turn of the assistant. Turns behind the last
one of the assistant have no answer and are left out. Rows that have all but the last turn in common are one example with several
references, as in other tasks of generation.

Alpaca: Taori et al. 2023, github.com/tatsu-lab/stanford_alpaca.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lmtailor.core.errors import DataError, near
from lmtailor.tasks.read import Format, read_table
from lmtailor.tasks.schema import Part, Schema
from lmtailor.tasks.table import Table, table_of_records
from lmtailor.tasks.task import Task
from lmtailor.tasks.turns import ROLES, Turn, turns_text

CONVERSATION, ANSWER = "conversation", "answer"
"""The columns of the task."""

Rows = str | Path | Sequence[Mapping[str, object]]
"""A file, or rows in memory."""

_LISTS = ("messages", "conversations")
_ROLES: Mapping[str, str] = {**{role: role for role in ROLES}, "human": "user", "gpt": "assistant"}
"""As rows name roles -> the role."""
_KEYS = (("role", "content"), ("from", "value"))


def conversation_task(  # noqa: PLR0913 - what a card would say
    *,
    train: Rows | None = None,
    dev: Rows | None = None,
    test: Rows | None = None,
    metrics: Sequence[str] | None = None,
    dev_fraction: float | None = None,
    limits: Mapping[str, int] | None = None,
    form: Format | None = None,
    seed: int = 0,
    name: str = "conversations",
) -> Task:
    """A task whose examples are conversations; `Chat` is its readout.

    Args:
        train: a file (.jsonl, .json, .parquet), or rows; likewise the others.
        dev: chooses checkpoints.
        test: is scored at the end.
        metrics: of what is written; None: those of generation.
        dev_fraction: share of train to hold out as dev.
        limits: split -> the most examples to keep.
        form: how files are written; None: by their suffixes.
        seed: of dev and limits.
        name: for messages, records and reports.

    Raises:
        InputError: no data, or what `build_splits` refuses.
        DataError: a row that is no conversation; the message names file and line.
    """
    given = {"train": train, "dev": dev, "test": test}
    tables = {split: _table(rows, f"{split} records", form) for split, rows in given.items() if rows is not None}
    schema = Schema(
        kind="generation", text=(CONVERSATION,), label=ANSWER, dev_fraction=dev_fraction, limits=limits or {}, seed=seed
    )
    made = {split: conversations(table) for split, table in tables.items()}
    return Task.from_parts({split: Part(table=table) for split, table in made.items()}, schema, name=name, metrics=metrics)


def conversations(table: Table) -> Table:
    """A table of records as one with the columns `conversation` and `answer`, row by row.

    Raises:
        DataError: columns of none of the shapes, or a row that is no conversation; the message names file and line.
    """
    turns = [_turns(table, row) for row in range(table.size)]
    ends = [max(i for i, turn in enumerate(own) if turn.role == "assistant") for own in turns]
    columns = {
        CONVERSATION: [turns_text(own[:end]) for own, end in zip(turns, ends, strict=True)],
        ANSWER: [own[end].content for own, end in zip(turns, ends, strict=True)],
    }
    return Table(source=table.source, columns=columns, lines=table.lines)


def _table(rows: Rows, name: str, form: Format | None) -> Table:
    return read_table(Path(rows), form) if isinstance(rows, str | Path) else table_of_records(rows, name)


def _turns(table: Table, row: int) -> tuple[Turn, ...]:
    """The turns of a row, checked."""
    place = table.place(row)
    cells = {name: cells[row] for name, cells in table.columns.items()}
    turns = _listed(cells, place) if any(cells.get(name) is not None for name in _LISTS) else _instruction(cells, place, table)
    system = cells.get("system")
    if system is not None and system != "":
        if turns[0].role == "system":
            raise DataError(f"{place}: both the column system and the first turn are what the system says. Leave one out.")
        turns = (Turn(role="system", content=_text(system, place, "system")), *turns)
    _check(turns, place)
    return turns


def _instruction(cells: Mapping[str, object], place: str, table: Table) -> tuple[Turn, ...]:
    """The two turns of an Alpaca record."""
    missing = [name for name in ("instruction", "output") if name not in table.columns]
    if missing:
        raise DataError(
            f"{place}: the columns are {', '.join(table.columns)}. A conversation has messages (role, content) or conversations "
            "(from, value); an instruction has instruction and output, and maybe input."
        )
    about = cells.get("input")
    asked = Turn(
        role="user",
        content=_text(cells["instruction"], place, "instruction"),
        input="" if about is None or about == "" else _text(about, place, "input", empty=True),
    )
    return asked, Turn(role="assistant", content=_text(cells["output"], place, "output"))


def _listed(cells: Mapping[str, object], place: str) -> tuple[Turn, ...]:
    """The turns of a list of them."""
    name = next(name for name in _LISTS if cells.get(name) is not None)
    found = cells[name]
    if not isinstance(found, list | tuple) or not found:
        raise DataError(f"{place}: {name} must be a list of turns; found {_shown(found)}.")
    return tuple(_turn(turn, f"{place}, turn {number}") for number, turn in enumerate(found, start=1))


def _turn(turn: object, place: str) -> Turn:
    keys = next((keys for keys in _KEYS if isinstance(turn, Mapping) and all(key in turn for key in keys)), None)
    if keys is None:
        raise DataError(f"{place} must have role and content, or from and value; found {_shown(turn)}.")
    assert isinstance(turn, Mapping)
    role, content = turn[keys[0]], turn[keys[1]]
    if not isinstance(role, str) or role not in _ROLES:
        raise DataError(f"{place} has the unknown role {role!r}. {near(str(role), _ROLES)}")
    return Turn(role=_ROLES[role], content=_text(content, place, keys[1]))


def _text(value: object, place: str, name: str, *, empty: bool = False) -> str:
    """A text that is there."""
    if not isinstance(value, str) or not (value.strip() or empty):
        what = "is empty" if isinstance(value, str) else f"is {_shown(value)}, not text"
        raise DataError(f"{place}: {name} {what}. Fill it in, or remove the record.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: {name} holds surrogates, which are no characters.") from None
    return value


def _check(turns: Sequence[Turn], place: str) -> None:
    """See that there is something to learn, behind something that was said."""
    roles = [turn.role for turn in turns]
    if "assistant" not in roles:
        raise DataError(f"{place}: no turn is the assistant's, so there is nothing to learn. Remove the record.")
    if "system" in roles[1:]:
        raise DataError(f"{place}: the system speaks in turn {roles.index('system', 1) + 1}. What it says stands first.")
    if "user" not in roles[: roles.index("assistant")]:
        raise DataError(f"{place}: the assistant speaks before any user does. Remove its first turn.")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
