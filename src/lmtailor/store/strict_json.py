"""JSON from strangers: bounded in size, one meaning only, and numbers that a machine can hold."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from lmtailor.core.errors import AdapterFileError

LIMIT = 16 << 20
"""How large a JSON file may be (bytes)."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. A key that stands twice, NaN and infinity are errors.

    Raises:
        AdapterFileError: the file cannot be read, is too large, or is no JSON object.
    """
    try:
        size = path.stat().st_size
        if size > LIMIT:
            raise AdapterFileError(f"{path} has {size} bytes; a description has {LIMIT} at most. This is no adapter.")
        data = path.read_bytes()
    except OSError as error:
        raise AdapterFileError(f"Cannot read {path}: {error.strerror or error}.") from error
    try:
        return parse_object(data)
    except ValueError as error:
        raise AdapterFileError(f"{path} is not the JSON that it should be: {error}. It is damaged; get it again.") from error


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object whose keys, and those of the objects in it, stand once each, and whose numbers a machine can hold.

    Raises:
        ValueError: they do not, or it is no JSON object.
    """
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_int=_integer, parse_float=_number, parse_constant=_no_constant
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} stands twice")
    return out


def _integer(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) >= 1 << 64:
        raise ValueError(f"the integer {text[:20]}… is larger than any that means something")
    return value


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {text[:20]} is larger than any that can be held")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
