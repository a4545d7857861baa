"""All strategies, found by file name; see `lmtailor.core.discovery`."""

from lmtailor.core.errors import InputError, near
from lmtailor.strategies.strategy import Strategy


def strategy_class(name: str) -> type[Strategy]:
    """The strategy of a name, or of a class name.

    Raises:
        InputError: there is none; near matches are shown.
    """
    strategies = Strategy.variants()
    by_class = {strategy.__name__: strategy for strategy in strategies.values()}
    try:
        return strategies.get(name) or by_class[name]
    except KeyError:
        raise InputError(f"There is no strategy {name!r}. {near(name, strategies)}") from None


def __getattr__(name: str) -> type[Strategy]:
    for strategy in Strategy.variants().values():
        if strategy.__name__ == name:
            return strategy
    raise AttributeError(
        f"lmtailor.strategies has no {name!r}. {near(name, [one.__name__ for one in Strategy.variants().values()])}"
    )


def __dir__() -> list[str]:
    return sorted([*globals(), *(strategy.__name__ for strategy in Strategy.variants().values())])
