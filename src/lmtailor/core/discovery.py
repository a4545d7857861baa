"""Finding the variants of a class by their files.

A file `ROOM/NAME.py` with one subclass in it is the variant NAME: nothing else lists it. A package of somebody else adds one
with an entry point in the group of the room's full name, such as `lmtailor.methods`. A file whose name starts with an
underscore holds what several variants share.
"""

import importlib
import inspect
import pkgutil
import sys
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import TypeVar

from lmtailor.core.errors import InputError

T = TypeVar("T")


@cache
def discovered(base: type[T], *, alone: bool = True) -> dict[str, type[T]]:
    """Every variant by name, in alphabetical order.

    Args:
        base: the class that variants are subclasses of. Its module's room is searched.
        alone: whether the room holds nothing else, so that a file without a variant is a mistake.

    Raises:
        InputError: a file or an entry point does not hold exactly one variant, or takes the name of another.
    """
    room, _, own = base.__module__.rpartition(".")
    found: dict[str, type[T]] = {}
    for info in pkgutil.iter_modules(sys.modules[room].__path__):
        if info.name != own and not info.name.startswith("_"):
            variants = _variants(importlib.import_module(f"{room}.{info.name}"), base)
            if len(variants) > 1 or (alone and not variants):
                raise InputError(f"{room}.{info.name} must define exactly one {base.__name__}; it defines {len(variants)}.")
            found.update((info.name, variant) for variant in variants)
    for point in entry_points(group=room):
        variant = point.load()
        if not (inspect.isclass(variant) and issubclass(variant, base)):
            raise InputError(f"The entry point {point.name} = {point.value} is not a {base.__name__}.")
        if point.name in found:
            raise InputError(
                f"There is a {base.__name__.lower()} {point.name!r} already; {point.value} needs an entry point of another name."
            )
        found[point.name] = variant
    return dict(sorted(found.items()))


def _variants(module: ModuleType, base: type[T]) -> list[type[T]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
    ]
