"""What a template computes with: plain data, and a meter that ends what would not end by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

Value = Union[None, bool, int, float, str, list["Value"], dict[str, "Value"]]  # noqa: UP007 - it names itself
"""Plain data. Nothing with attributes or behaviour of its own gets into a template."""

SEPARATOR = "|||"
"""Stands between the input and the target. In the data it is text like any other."""
_HIDDEN = "\ufdd0"
"""Stands for a separator of the data while a template is rendered: a code point that Unicode keeps out of texts."""

_WHOLE = 10**15
"""The largest whole number that a template may make; larger ones are only good for filling memory."""
_DEPTH = 20
"""How deep lists and tables of the data may be nested."""


class NotAllowedError(Exception):
    """A template asks for what it may not have; the interpreter adds the template's name and the line."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A name or an item that is not there. It may be tested for and given a default, and nothing else."""

    what: str


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one rendering may cost."""

    steps: int = 50_000
    """Nodes of the template that are evaluated, those in loops each time."""
    characters: int = 1_000_000
    """Characters and list items that are made, searched or compared, all together."""


class Meter:
    """Counts what a rendering costs, and ends it at the limits. Costs are counted before they arise."""

    def __init__(self, limits: Limits) -> None:
        self._steps, self._characters, self._limits = limits.steps, limits.characters, limits

    def step(self) -> None:
        """Count one node.

        Raises:
            NotAllowedError: there were too many.
        """
        self._steps -= 1
        if self._steps < 0:
            raise NotAllowedError(f"takes more than {self._limits.steps:,} steps")

    def pay(self, characters: int) -> None:
        """Count characters or items.

        Raises:
            NotAllowedError: there were too many.
        """
        self._characters -= characters
        if self._characters < 0:
            raise NotAllowedError(f"makes or reads more than {self._limits.characters:,} characters")


def plain(value: object, depth: int = _DEPTH) -> Value:
    """A cell of a record as plain data: tuples become lists, and separators in texts are hidden until `parts`.

    Raises:
        NotAllowedError: it is something else, or nested too deep.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value).replace(SEPARATOR, _HIDDEN)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if depth == 0:
        raise NotAllowedError(f"gets data that is nested more than {_DEPTH} deep")
    if isinstance(value, Mapping):
        return {_key(key): plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(item, depth - 1) for item in value]
    raise NotAllowedError(f"gets a {type(value).__name__}, which is no plain data")


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise NotAllowedError(f"gets a table whose key is a {type(key).__name__}, not text")
    return str(key)


def parts(output: str) -> tuple[str, ...]:
    """What stands between separators, without white space at the ends. Those of the data are text again."""
    return tuple(part.strip().replace(_HIDDEN, SEPARATOR) for part in output.split(SEPARATOR))


def size(value: Value) -> int:
    """Characters and items of a value: what it costs to go through it.

    Raises:
        NotAllowedError: it is nested too deep.
    """
    if isinstance(value, str):
        return len(value)
    total = 0
    waiting: list[tuple[Value, int]] = [(value, 2 * _DEPTH)]
    while waiting:
        one, depth = waiting.pop()
        total += len(one) if isinstance(one, str) else 1
        if isinstance(one, list | dict):
            if depth == 0:
                raise NotAllowedError(f"nests lists or tables more than {2 * _DEPTH} deep")
            total += sum(map(len, one)) if isinstance(one, dict) else 0
            waiting += [(item, depth - 1) for item in (one.values() if isinstance(one, dict) else one)]
    return total


def whole(value: Value) -> int:
    """A value that must be a whole number.

    Raises:
        NotAllowedError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise NotAllowedError(f"needs a whole number where it has {shown(value)}")
    return value


def number(value: Value) -> int | float:
    """A value that must be a number.

    Raises:
        NotAllowedError: it is none.
    """
    if not isinstance(value, int | float):
        raise NotAllowedError(f"needs a number where it has {shown(value)}")
    return value


def bounded(value: float) -> int | float:
    """A number that was computed.

    Raises:
        NotAllowedError: it is too large.
    """
    if isinstance(value, int) and abs(value) > _WHOLE:
        raise NotAllowedError(f"computes a number beyond {_WHOLE:,}")
    return value


def words(value: Value) -> str:
    """A value that must be text.

    Raises:
        NotAllowedError: it is none.
    """
    if not isinstance(value, str):
        raise NotAllowedError(f"needs text where it has {shown(value)}")
    return value


def items(value: Value) -> list[Value]:
    """A value that must be a list; of a table its keys.

    Raises:
        NotAllowedError: it is none. Text is none either.
    """
    if isinstance(value, dict):
        return list(value)
    if not isinstance(value, list):
        raise NotAllowedError(f"needs a list where it has {shown(value)}")
    return value


def printed(value: Value) -> str:
    """A value as text, as it stands in the output.

    Raises:
        NotAllowedError: a list or a table.
    """
    if isinstance(value, list | dict):
        raise NotAllowedError(f"prints {shown(value)}; name an item of it, or join a list")
    return value if isinstance(value, str) else str(value)


def shown(value: Value) -> str:
    """A value as an error names it."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"a table of {len(value)}"
    if isinstance(value, str):
        return f"the text {value[:20]!r}{'…' if len(value) > 20 else ''}"
    return repr(value)
