"""Settings and their defaults as text, for tables."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from lmtailor.core.errors import InputError
from lmtailor.core.settings import to_mapping
from lmtailor.core.typed import Variants

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def setting_texts(cls: "type[DataclassInstance]") -> tuple[str, ...]:
    """Each setting with its default, as `--set` takes it."""
    return tuple(map(_setting, fields(cls)))


def _setting(field: "Field[Any]") -> str:
    if field.default is not MISSING:
        return f"{field.name}={_written(field.default)}"
    if field.default_factory is not MISSING:
        return f"{field.name}={_written(field.default_factory())}"
    return f"{field.name} (required)"


def _written(value: object) -> str:
    """A default as it would be typed."""
    if isinstance(value, bool | None):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(_written, value))
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    if is_dataclass(value) and not isinstance(value, type):
        return _table(value)
    return str(value)


def _table(value: "DataclassInstance") -> str:
    """Settings that are a setting: what is not their default, with the name of what is chosen by name."""
    own = to_mapping(value)
    try:
        plain = to_mapping(type(value)())
    except (InputError, TypeError):  # there is none without settings
        plain = {}
    other = {key: item for key, item in own.items() if key not in plain or item != plain[key]}
    if not isinstance(value, Variants):
        return json.dumps(other)
    name = value.variant_name()
    return json.dumps({"name": name, **other}) if other else name
