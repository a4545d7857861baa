"""All methods, found by file name.

A file `methods/NAME.py` with one `Method` in it is the method NAME: nothing else lists it. A package of somebody else adds
one with an entry point in the group `lmtailor.methods`.
"""

import importlib
import inspect
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType

from lmtailor.core.errors import InputError, near
from lmtailor.methods.method import Method

_NOT_METHODS = {"method"}


@cache
def catalogue() -> dict[str, type[Method]]:
    """Every method by name, in alphabetical order.

    Raises:
        InputError: a file or an entry point does not hold exactly one method, or takes the name of another.
    """
    found: dict[str, type[Method]] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name not in _NOT_METHODS:
            found[info.name] = _only_method(importlib.import_module(f"{__name__}.{info.name}"))
    for point in entry_points(group="lmtailor.methods"):
        method = point.load()
        if not (inspect.isclass(method) and issubclass(method, Method)):
            raise InputError(f"The entry point {point.name} = {point.value} is not a Method.")
        if point.name in found:
            raise InputError(f"There is a method {point.name!r} already; {point.value} needs an entry point of another name.")
        found[point.name] = method
    return dict(sorted(found.items()))


def method_class(name: str) -> type[Method]:
    """The method of a name, or of a class name.

    Raises:
        InputError: there is none; near matches are shown.
    """
    methods = catalogue()
    by_class = {method.__name__: method for method in methods.values()}
    try:
        return methods.get(name) or by_class[name]
    except KeyError:
        raise InputError(f"There is no method {name!r}. {near(name, methods)}") from None


def method_name(method: Method) -> str:
    """The name under which a method is found."""
    return next(name for name, cls in catalogue().items() if cls is type(method))


def _only_method(module: ModuleType) -> type[Method]:
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise InputError(f"{module.__name__} must define exactly one Method; it defines {len(own)}.")
    return own[0]


def __getattr__(name: str) -> type[Method]:
    for method in catalogue().values():
        if method.__name__ == name:
            return method
    raise AttributeError(f"lmtailor.methods has no {name!r}. {near(name, [m.__name__ for m in catalogue().values()])}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(method.__name__ for method in catalogue().values())])
