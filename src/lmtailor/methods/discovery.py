"""Finding methods by their files.

A file `methods/NAME.py` with one `Method` in it is the method NAME: nothing else lists it. A package of somebody else adds
one with an entry point in the group `lmtailor.methods`. A file whose name starts with an underscore holds what several methods
share.
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

PACKAGE = __name__.rpartition(".")[0]
_NOT_METHODS = {"discovery", "method"}


@cache
def discovered(base: type[T]) -> dict[str, type[T]]:
    """Every method by name, in alphabetical order.

    Args:
        base: the class that methods are subclasses of.

    Raises:
        InputError: a file or an entry point does not hold exactly one method, or takes the name of another.
    """
    found: dict[str, type[T]] = {}
    for info in pkgutil.iter_modules(sys.modules[PACKAGE].__path__):
        if info.name not in _NOT_METHODS and not info.name.startswith("_"):
            found[info.name] = _only_method(importlib.import_module(f"{PACKAGE}.{info.name}"), base)
    for point in entry_points(group=PACKAGE):
        method = point.load()
        if not (inspect.isclass(method) and issubclass(method, base)):
            raise InputError(f"The entry point {point.name} = {point.value} is not a Method.")
        if point.name in found:
            raise InputError(f"There is a method {point.name!r} already; {point.value} needs an entry point of another name.")
        found[point.name] = method
    return dict(sorted(found.items()))


def _only_method(module: ModuleType, base: type[T]) -> type[T]:
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise InputError(f"{module.__name__} must define exactly one Method; it defines {len(own)}.")
    return own[0]
