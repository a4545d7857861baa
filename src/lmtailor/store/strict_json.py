"""JSON from strangers: bounded in size and depth, one meaning only, and numbers and texts that a machine can hold."""

import json
from pathlib import Path
from typing import Any, NoReturn

from lmtailor.core.errors import AdapterFileError

LIMIT = 4 << 20
"""How large a JSON file may be (bytes)."""
DEPTH = 64
"""How deep objects and lists may stand in each other. What reads them recurses."""
TEXT = 1 << 16
"""How long a text may be (characters). What reads it may take time that is no multiple of its length."""

LARGEST = 3.4028234663852886e38
"""The largest number of float32."""


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
    """A JSON object whose keys, and those of the objects in it, stand once each, and whose values a machine can hold.

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
    _check(value)
    return value


def _check(whole: dict[str, Any]) -> None:
    """See that nothing stands too deep, and that texts are texts. Level by level, for recursion is what is to be bounded."""
    level: list[Any] = [whole]
    for _ in range(DEPTH):
        inner: list[Any] = []
        for value in level:
            if type(value) is dict:
                for key in value:
                    _check_text(key)
                value = value.values()
            for item in value:
                if type(item) is str:
                    _check_text(item)
                elif type(item) is dict or type(item) is list:
                    inner.append(item)
        if not inner:
            return
        level = inner
    raise ValueError(f"it is nested more than {DEPTH} deep")


def _check_text(text: str) -> None:
    if len(text) > TEXT:
        raise ValueError(f"the text {text[:20]!r}… has {len(text)} characters, and no text has more than {TEXT}")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError(f"the text {text[:20]!r} holds half of a character")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} stands twice")
    return out


def _integer(text: str) -> int:
    if len(text) > 18 and (len(text) > 20 or abs(int(text)) >= 1 << 64):
        raise ValueError(f"the integer {text[:20]}… is larger than any that means something")
    return int(text)


def _number(text: str) -> float:
    """Settings become float32 where they meet tensors."""
    if abs(value := float(text)) > LARGEST:
        raise ValueError(f"the number {text[:20]} is larger than any that can be held")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
