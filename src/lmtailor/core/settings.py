"""Settings as data: a frozen dataclass ← a TOML or JSON table ← `key.path=value` from the command line.

The dataclass is the schema; there is no second one. Fields may be bool, int, float, str, None, Literal, unions of
these, tuples, `Mapping[str, …]` and nested dataclasses. Values of a table are taken as they are typed: the text "16"
is no integer, true is no number, and an integer is a number. Text from the command line (`Given`) is read by
the type of the field instead.
"""

import hashlib
import json
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, TypeVar, Union, get_args, get_origin, get_type_hints

from lmtailor.core.errors import InputError, near
from lmtailor.core.typed import Given, Place, Variants, build, found, init_fields

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Given", "apply_overrides", "from_mapping", "resolve_name", "settings_hash", "to_mapping"]

T = TypeVar("T", bound="DataclassInstance")


def from_mapping(cls: type[T], values: Mapping[str, object], *, path: str = "", source: str = "") -> T:
    """Build a dataclass from a table.

    Args:
        cls: the dataclass. Its own checks (`__post_init__`) run, and their errors name the place.
        values: field name -> value, as `tomllib` or `json` read it, or `Given` text.
        path: where the table stands, such as "method"; errors begin with it.
        source: the file it was read from, such as "plan.toml"; errors name it.

    Raises:
        InputError: an unknown or missing field, or a value of another type.
    """
    return build(cls, values, Place(path, source))


def to_mapping(settings: "DataclassInstance") -> dict[str, object]:
    """The inverse of `from_mapping`: a dictionary that JSON holds exactly, with tuples as lists.

    It holds every field, defaults too. Values are first put into their declared types (an integer given for a float
    becomes a float), so equal settings give equal tables.

    Raises:
        InputError: a value is not of its field's type.
    """
    checked = from_mapping(type(settings), {name: _plain(getattr(settings, name)) for name in init_fields(type(settings))})
    return {name: _plain(getattr(checked, name)) for name in init_fields(type(checked))}


def settings_hash(settings: "DataclassInstance | Mapping[str, object]") -> str:
    """SHA-256 over the canonical JSON of settings, in hexadecimal. The order of keys does not matter."""
    plain = _plain(settings) if isinstance(settings, Mapping) else to_mapping(settings)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def apply_overrides(
    values: Mapping[str, object], overrides: Iterable[str], *, known: Mapping[str, type] | None = None
) -> dict[str, object]:
    """A copy of nested tables in which `key.path=value` texts are set; later ones win.

    Args:
        values: nested tables. They are not changed.
        overrides: texts such as "method.rank=16". The value stays text (`Given`) until `from_mapping` reads it. Space around it
            is left out; a text that begins or ends with some is written as a JSON string, such as readout.target=" {ref}".
        known: section name -> its dataclass, "" for the top level. With it, a bare name ("rank=16") works where
            it is unique, and names that do not exist raise here. Without it, every path is taken as it is.

    Raises:
        InputError: no "=", an unknown or ambiguous name, or a path through something that is no table.
    """
    result = dict(values)
    for override in overrides:
        name, equals, text = override.partition("=")
        name = name.strip()
        if not equals or not all(name.split(".")):
            raise InputError(f"Cannot read the setting {override!r}. Write key.path=value, such as method.rank=16.")
        path = (name if known is None else resolve_name(name, known)).split(".")
        table = result
        for depth, key in enumerate(path[:-1], start=1):
            inner = {} if table.get(key) is None else table[key]
            if not isinstance(inner, Mapping):
                raise InputError(f"{name} cannot be set: {'.'.join(path[:depth])} is {found(inner)}, not a table.")
            table[key] = table = dict(inner)
        table[path[-1]] = _given(text.strip())
    return result


def resolve_name(name: str, known: Mapping[str, type]) -> str:
    """The full path of a setting's name: itself where it is one, else the only setting that ends with it.

    Raises:
        InputError: no setting has the name, or several sections have it.
    """
    paths = {path: opens for section, cls in known.items() for path, opens in _paths(cls, section)}
    if name in paths or any(opens and name.startswith(f"{path}.") for path, opens in paths.items()):
        return name
    matches = [path for path in paths if path.endswith(f".{name}")]
    if len(matches) > 1:
        raise InputError(f"The setting {name} is ambiguous: {', '.join(matches)}. Write one of them in full.")
    if not matches:
        bare = {path.rpartition(".")[2]: path for path in paths}
        options = paths if "." in name else bare
        raise InputError(f"There is no setting {name}. {near(name, options)}")
    return matches[0]


def _given(text: str) -> Given:
    """A value as text; a JSON string, as what it says."""
    if text.startswith('"') and text.endswith('"'):
        try:
            value = json.loads(text)
        except ValueError:  # quotes that belong to the text
            return Given(text)
        return Given(value) if isinstance(value, str) else Given(text)
    return Given(text)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        own = {"name": value.variant_name()} if isinstance(value, Variants) else {}
        return own | {name: _plain(getattr(value, name)) for name in init_fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _paths(cls: type, prefix: str) -> Iterator[tuple[str, bool]]:
    """The path of every field, nested ones too, and whether it may be a table with keys of its own."""
    hints = get_type_hints(cls)
    for name in init_fields(cls):
        path = f"{prefix}.{name}" if prefix else name
        members = get_args(hints[name]) if get_origin(hints[name]) in (Union, types.UnionType) else (hints[name],)
        origins = [get_origin(member) for member in members]
        tables = [origin for origin in origins if isinstance(origin, type) and issubclass(origin, Mapping)]
        yield path, bool(tables) or any(isinstance(member, type) and issubclass(member, Variants) for member in members)
        for member in members:
            if is_dataclass(member) and isinstance(member, type):
                yield from _paths(member, path)
