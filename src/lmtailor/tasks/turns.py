"""The turns of a conversation, and the text that stands for them in an example's column."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one side says."""

    role: str
    """One of `ROLES`."""
    content: str
    input: str = ""
    """Of an instruction (Alpaca): what it is to be applied to."""


def turns_text(turns: Sequence[Turn]) -> str:
    """Turns as a column holds them: JSON, or a user's only turn as it is."""
    if len(turns) == 1 and turns_of(turns[0].content) == tuple(turns):
        return turns[0].content
    rows = [{"role": one.role, "content": one.content} | ({"input": one.input} if one.input else {}) for one in turns]
    return json.dumps(rows, ensure_ascii=False)


def turns_of(text: str) -> tuple[Turn, ...]:
    """The inverse of `turns_text`. Any other text is what a user says, the only turn."""
    if not text.startswith('[{"role": '):
        return (Turn(role="user", content=text),)
    try:
        rows = json.loads(text)
        turns = tuple(Turn(role=row["role"], content=row["content"], input=row.get("input", "")) for row in rows)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return (Turn(role="user", content=text),)
    whole = all(one.role in ROLES and isinstance(one.content, str) and isinstance(one.input, str) for one in turns)
    return turns if whole else (Turn(role="user", content=text),)
