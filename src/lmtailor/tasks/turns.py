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
        found = [(row["role"], row["content"], row.get("input", "")) for row in rows]
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return (Turn(role="user", content=text),)
    if not all(role in ROLES and isinstance(content, str) and isinstance(more, str) for role, content, more in found):
        return (Turn(role="user", content=text),)
    return tuple(Turn(role=role, content=content, input=more) for role, content, more in found)
