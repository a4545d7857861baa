"""The strategies as rows: the same for `lmtailor strategies` and for the page in docs/."""

from dataclasses import dataclass
from inspect import getdoc

from lmtailor.cli.setting_texts import setting_texts
from lmtailor.strategies.strategy import Strategy


@dataclass(frozen=True, kw_only=True)
class StrategyRow:
    """One strategy."""

    name: str
    """On the command line."""
    python: str
    """Its class."""
    what: str
    settings: tuple[str, ...]
    """Each with its default, as `--set strategy.…` takes it."""
    paper: str


def strategy_rows() -> list[StrategyRow]:
    """Every strategy, in alphabetical order."""
    return [
        StrategyRow(
            name=name,
            python=cls.__name__,
            what=(getdoc(cls) or "").split("\n\n")[0].replace("\n", " "),
            settings=setting_texts(cls),
            paper=cls.paper,
        )
        for name, cls in Strategy.variants().items()
    ]
