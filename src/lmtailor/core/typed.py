"""A plain value put into a declared type, or a message that says where it stood, what was asked and what was found."""

import json
import math
import tomllib
import types
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lmtailor.core.errors import InputError, near, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


class Given(str):
    """Text of a value as typed on the command line; it is read by the type of the field it is for."""

    __slots__ = ()


class Variants(ABC):
    """A dataclass of which subclasses are found by name: as a setting it is a table whose `name` says which."""

    @classmethod
    @abstractmethod
    def variants(cls) -> Mapping[str, type[Any]]:
        """The subclasses by name."""

    @classmethod
    def variant_name(cls) -> str:
        """The name of this subclass.

        Raises:
            InputError: it has none, so it cannot be stored.
        """
        for name, variant in cls.variants().items():
            if variant is cls:
                return name
        raise InputError(f"{cls.__name__} is not found by any name, so it cannot be stored. Put it into a file of its own.")


class Place:
    """Where a value stands, for messages."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = path, source

    def __truediv__(self, key: str | int) -> "Place":
        step = f"[{key}]" if isinstance(key, int) else f".{key}" if self.path else key
        return Place(self.path + step, self.source)

    def __str__(self) -> str:
        return (self.path or "The settings") + (f" in {self.source}" if self.source else "")


class MismatchError(InputError):
    """A value is not of the asked type. A union tries its next member then."""


def build(cls: type[T], values: object, place: Place) -> T:
    """A dataclass from a table whose values are plain or `Given`; see `settings.from_mapping`."""
    if not isinstance(values, Mapping):
        raise _mismatch("a table", values, place)
    known = init_fields(cls)
    for key in values:
        if key not in known:
            raise InputError(f"{place / str(key)} is not a setting of {cls.__name__}. {near(str(key), known)}")
    missing = [name for name, field in known.items() if name not in values and _required(field)]
    if missing:
        asked = " and ".join(str(Place(place.path, "") / name) for name in missing)
        raise InputError(f"{place} needs {' and '.join(missing)}: {cls.__name__} has no default for it. Set {asked}.")
    hints = get_type_hints(cls)
    built = {str(key): _convert(value, hints[str(key)], place / str(key)) for key, value in values.items()}
    try:
        return cls(**built)
    except InputError as error:
        raise InputError(f"{place}: {error}" if place.path or place.source else str(error)) from error


def _convert(value: object, hint: Any, place: Place, *, widen: bool = True) -> Any:
    """The value in the type `hint`. `widen`: whether an integer may become a float."""
    if hint in (bool, int, float, str, type(None)):
        return _convert_scalar(value, hint, place, widen)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, args, place)
    if isinstance(hint, type) and issubclass(hint, Variants):
        return _convert_variant(value, hint, place)
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, _object(value), place)
    if origin is Literal:
        return _convert_literal(value, args, place)
    if origin is tuple:
        return _convert_tuple(value, args, place, widen)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        table = _object(value)
        if args[0] is not str:
            raise TypeError(f"Settings hold mappings with text keys only, not {hint}.")
        if not isinstance(table, Mapping):
            raise _mismatch("a table", value, place)
        return {str(key): _convert(item, args[1], place / str(key), widen=widen) for key, item in table.items()}
    raise TypeError(f"Settings cannot hold values of type {hint} ({place}).")


def _convert_variant(value: object, hint: type[Variants], place: Place) -> object:
    table = {"name": str(value)} if isinstance(value, str) and not value.startswith("{") else _object(value)
    if not isinstance(table, Mapping):
        raise _mismatch("a name or a table", value, place)
    known = hint.variants()
    name = table.get("name")
    if not isinstance(name, str) or name not in known:
        offer = nearest(str(name), known)
        raise InputError(f"{place / 'name'} must be one of {', '.join(known)}; found {found(name)}. {offer}".rstrip())
    return build(known[name], {key: item for key, item in table.items() if key != "name"}, place)


def _convert_scalar(value: object, hint: Any, place: Place, widen: bool) -> object:
    if isinstance(value, Given) and hint is not str:
        value = _read(value)
    if hint is float and type(value) is int and widen:
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _mismatch(_asked(hint), value, place)
    if isinstance(value, float) and not math.isfinite(value):
        raise _mismatch("a finite number", value, place)
    return None if value is None else hint(value)  # a subclass, such as NumPy's float, becomes the plain type


def _read(text: Given) -> object:
    """Command-line text as the scalar it looks like, else as text."""
    word = text.lower()
    if word in ("true", "false", "none", "null"):
        return {"true": True, "false": False}.get(word)
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return str(text)


def _convert_union(value: object, members: Sequence[Any], place: Place) -> object:
    """The first member that the value fits, without widening if possible."""
    if sum(is_dataclass(member) for member in members) > 1:
        raise TypeError(
            f"A setting cannot choose between dataclasses by itself ({place}); name the choice in a field of its own."
        )
    others = [member for member in members if member is not type(None)]
    if isinstance(value, Given):
        members = sorted(members, key=_eagerness)
    elif value is not None and len(others) == 1:
        return _convert(value, others[0], place)  # its own error says more than the union's
    elif isinstance(value, Mapping) and any(is_dataclass(member) for member in members):
        return _convert(value, next(member for member in members if is_dataclass(member)), place)
    for widen in (False, True):
        for member in members:
            try:
                return _convert(value, member, place, widen=widen)
            except MismatchError:
                continue
    error = _mismatch(" or ".join(_asked(member) for member in members), value, place)
    words = [str(option) for member in members if get_origin(member) is Literal for option in get_args(member)]
    raise MismatchError(f"{error} {nearest(value, words)}".rstrip()) if isinstance(value, str) and words else error


def _eagerness(hint: Any) -> int:
    """The order in which command-line text is tried: what fits few texts first, what fits all last."""
    if get_origin(hint) is Literal:
        return 0
    return {type(None): 1, str: 4}.get(hint, 3 if get_origin(hint) is tuple else 2)


def _convert_literal(value: object, options: Sequence[object], place: Place) -> object:
    for option in options:
        if type(option) is type(value) and option == value:
            return option
        if isinstance(value, Given) and (str(option) == value or (type(option) is bool and _read(value) is option)):
            return option
    asked = "one of " + ", ".join(str(option) for option in options)
    hint = nearest(value, [str(option) for option in options]) if isinstance(value, str) else ""
    raise MismatchError(f"{place} must be {asked}; found {found(value)}. {hint}".rstrip())


def _convert_tuple(value: object, args: Sequence[Any], place: Place, widen: bool) -> tuple[object, ...]:
    items = _split(value) if isinstance(value, Given) else value
    if not isinstance(items, list | tuple):
        raise _mismatch("a list", value, place)
    if len(args) == 2 and args[1] is Ellipsis:
        args = [args[0]] * len(items)
    elif len(args) != len(items):
        raise _mismatch(f"a list of {len(args)} values", value, place)
    return tuple(_convert(item, hint, place / i, widen=widen) for i, (item, hint) in enumerate(zip(items, args, strict=True)))


def _split(text: str) -> list[Given]:
    """The items of "a,b" or "[a,b]". Commas inside brackets or quotes do not separate."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        depth += (char in "[{(") - (char in "]})") if not quote else 0
        if char == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += char
    if len(parts) == 1 and parts[0].strip().startswith("[") and parts[0].strip().endswith("]"):
        return _split(parts[0].strip()[1:-1])
    items = [part.strip() for part in parts]
    if items[-1] == "":  # an empty list, or a comma at the end
        items.pop()
    return [Given(item[1:-1] if len(item) > 1 and item[0] == item[-1] and item[0] in "\"'" else item) for item in items]


def _object(value: object) -> object:
    """Given text that is a JSON object or an inline table of TOML, as a table; anything else as it is."""
    if not (isinstance(value, Given) and value.startswith("{")):
        return value
    for read in (json.loads, _inline):
        try:
            return read(value)
        except ValueError:
            continue
    return value


def _inline(text: str) -> object:
    """An inline table such as {dev = 44}."""
    return tomllib.loads(f"it = {text}")["it"]


def init_fields(cls: type) -> dict[str, Field[Any]]:
    """The fields that the dataclass's constructor takes, by name."""
    return {field.name: field for field in fields(cls) if field.init}


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _asked(hint: Any) -> str:
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "none"}
    if hint in names:
        return names[hint]
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(hint))
    return "a list" if get_origin(hint) is tuple else "a table"


def found(value: object) -> str:
    """A value as a message shows it, shortened."""
    kinds = {bool: "true or false", int: "an integer", float: "a number", list: "a list", tuple: "a list", dict: "a table"}
    if value is None:
        return "none"
    shown = json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else f'the text "{value}"'
    shown = shown if len(shown) <= 80 else shown[:77] + "…"
    return f"{shown} ({kinds[type(value)]})" if type(value) in kinds else shown


def _mismatch(asked: str, value: object, place: Place) -> MismatchError:
    return MismatchError(f"{place} must be {asked}; found {found(value)}.")
