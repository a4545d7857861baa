"""All methods, found by file name; see `lmtailor.core.discovery`."""

from lmtailor.core.discovery import discovered
from lmtailor.core.errors import InputError, near
from lmtailor.methods.method import Method


def catalogue() -> dict[str, type[Method]]:
    """Every method by name, in alphabetical order.

    Raises:
        InputError: a file or an entry point does not hold exactly one method, or takes the name of another.
    """
    return dict(discovered(Method))


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
    return type(method).variant_name()


def __getattr__(name: str) -> type[Method]:
    for method in catalogue().values():
        if method.__name__ == name:
            return method
    raise AttributeError(f"lmtailor.methods has no {name!r}. {near(name, [m.__name__ for m in catalogue().values()])}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(method.__name__ for method in catalogue().values())])
