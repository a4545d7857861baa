"""`adapter_config.json` of PEFT folders: which keys are understood, and which must be at rest.

PEFT itself drops keys that it does not know. Here a key is read, or has no influence on a stored adapter, or must have a
value that changes nothing; anything else is an error that names it. The keys are those of PEFT 0.21.2.
"""

from collections.abc import Collection, Mapping
from typing import Any

from lmtailor.core.errors import AdapterFileError, near

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"

EVERY = frozenset(
    {
        "peft_type",
        "task_type",
        "modules_to_save",
        # What follows says where the folder comes from, and changes no number.
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "peft_version",
        "revision",
    }
)
"""Keys of every type."""


def check_config(config: Mapping[str, Any], kind: str, keys: Collection[str], at_rest: Mapping[str, tuple[Any, ...]]) -> None:
    """See that every key of a configuration is understood.

    Args:
        config: the configuration.
        kind: its peft_type.
        keys: those that are read, or that have no influence.
        at_rest: those that are not read, with the values at which they change nothing.

    Raises:
        AdapterFileError: a key is unknown, or asks for what is not read here.
    """
    for key, value in config.items():
        if key in keys or key in EVERY:
            continue
        if key not in at_rest:
            raise AdapterFileError(
                f"{key[:60]!r} is no key of PEFT's {kind} that is known here, and ignoring it could change the adapter. "
                f"{near(key, {*keys, *EVERY})}"
            )
        if not any(type(value) is type(rest) and value == rest for rest in at_rest[key]):
            raise AdapterFileError(f"It uses {key} ({_shown(value)}), which is not read here.")


def integer(config: Mapping[str, Any], key: str) -> int:
    """A key that must hold a positive integer.

    Raises:
        AdapterFileError: it does not.
    """
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise AdapterFileError(f"{key} must be a positive integer; it is {_shown(value)}.")
    return value


def number(config: Mapping[str, Any], key: str, default: float) -> float:
    """A key that holds a number, or is missing.

    Raises:
        AdapterFileError: it holds something else.
    """
    value = config.get(key, default)
    if not is_number(value):
        raise AdapterFileError(f"{key} must be a number; it is {_shown(value)}.")
    return float(value)


def is_number(value: Any) -> bool:
    """Whether a value is an integer or a float, and not beyond what a float32 holds."""
    return type(value) in (int, float) and abs(value) < 2.0**127


def flag(config: Mapping[str, Any], key: str) -> bool:
    """A key that holds true or false, or is missing (false).

    Raises:
        AdapterFileError: it holds something else.
    """
    value = config.get(key, False)
    if type(value) is not bool:
        raise AdapterFileError(f"{key} must be true or false; it is {_shown(value)}.")
    return value


def names(config: Mapping[str, Any], key: str) -> list[str] | str | None:
    """A key that holds a list of names, a pattern, or nothing.

    Raises:
        AdapterFileError: it holds something else.
    """
    value = config.get(key)
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise AdapterFileError(f"{key} must be a list of names, or a text; it is {_shown(value)}.")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
