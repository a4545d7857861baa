"""The entries of a plan's file: bases, methods, readouts, trainings, objectives and strategies, by name or in place."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lmtailor.compare.plan import MAJORITY, READOUT_NAMES, AnyReadout, BaseSource, Majority
from lmtailor.core.errors import InputError, near
from lmtailor.core.settings import from_mapping
from lmtailor.core.typed import found
from lmtailor.fit.teacher import check_soft_source
from lmtailor.fit.training import Training
from lmtailor.fit.unlabelled import Unlabelled
from lmtailor.methods import catalogue
from lmtailor.methods.method import Method
from lmtailor.objectives.objective import Objective
from lmtailor.readouts.options import Options
from lmtailor.readouts.registry import get_readout
from lmtailor.readouts.text import Text
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.strategies.strategy import Strategy
from lmtailor.tasks.task import Task

PROMPT = "pattern_name"
"""Setting of a readout in a plan, instead of a pattern and its words, target or options: the name of a pattern of the card."""
_PROMPTED: Mapping[type, tuple[str, ...]] = {Verbalizer: ("words",), Text: ("target",), Options: ("options",)}
"""Readouts with a pattern, and what of a card's pattern goes with it."""
ENTRIES = ("bases", "methods", "readouts", "trainings", "objectives", "strategies")
"""The tables of a plan that hold entries."""
_FOLDERS = ("source", "sources", "filler", "encoder", "mixture")
"""Settings of strategies and readouts that name an adapter, a model or a mixture."""


class Entries:
    """What cells may name, and how they say it in place."""

    def __init__(self, values: Mapping[str, object], *, task: Callable[[], Task] | None, folder: Path, source: str) -> None:
        """Read the tables of entries.

        Args:
            values: the whole plan.
            task: gives the data, for patterns by name; called only where some are named. None: nobody said what it is.
            folder: from which paths count.
            source: the file's name, for messages.

        Raises:
            InputError: something is unknown or does not fit.
        """
        self.task, self.folder, self.source = task, folder, source
        tables = {name: self.table(values.get(name, {}), name) for name in ENTRIES}
        self.bases = {name: self._base(value, f"bases.{name}") for name, value in tables["bases"].items()}
        self.methods = {
            name: self._method(value, f"methods.{name}", default=name)[1] for name, value in tables["methods"].items()
        }
        self.readouts = {
            name: self._readout(value, f"readouts.{name}", default=name)[1] for name, value in tables["readouts"].items()
        }
        self.trainings = {
            name: from_mapping(Training, self.table(value, f"trainings.{name}"), path=f"trainings.{name}", source=source)
            for name, value in tables["trainings"].items()
        }
        self.objectives = {
            name: self._objective(value, f"objectives.{name}", default=name)[1] for name, value in tables["objectives"].items()
        }
        self.strategies = {
            name: self._strategy(value, f"strategies.{name}", default=name)[1] for name, value in tables["strategies"].items()
        }

    def base_name(self, value: object, place: str) -> tuple[str, str | None]:
        """The name of a base, which must be there if the plan has any; with the label that stands for it in names."""
        if value is None:
            return next(iter(self.bases)) if len(self.bases) == 1 else "", None
        name = self._text(value, place, "the name of a base")
        if self.bases and name not in self.bases:
            raise InputError(f"{place}{within(self.source)}: there is no base {name!r}. {near(name, self.bases)}")
        return name, name

    def chosen_readout(self, value: object, place: str, strategy: Strategy | None = None) -> tuple[str, AnyReadout | None]:
        """The readout of a cell, by name or in place, with its label; None where the cell leaves it out.

        In place, it may leave out what the cell's strategy finds.
        """
        if value is None:
            return "", None
        if isinstance(value, str) and value in self.readouts:
            return value, self.readouts[value]
        return self._readout(value, place, tuple(self.readouts), strategy=strategy)

    def chosen_method(self, value: object, place: str) -> tuple[str, Method | None]:
        """The method of a cell, by name or in place, with its label; None where the cell leaves it out."""
        if value is None:
            return "", None
        if isinstance(value, str) and value in self.methods:
            return value, self.methods[value]
        return self._method(value, place, tuple(self.methods))

    def chosen_strategy(self, value: object, place: str) -> tuple[str, Strategy | None]:
        """The strategy of a cell, by name or in place, with its label; None where the cell leaves it out."""
        if value is None:
            return "", None
        if isinstance(value, str) and value in self.strategies:
            return value, self.strategies[value]
        return self._strategy(value, place, tuple(self.strategies))

    def chosen_objective(self, value: object, place: str) -> tuple[str, Objective | None]:
        """The objective of a cell, by name or in place, with its label; None where the cell leaves it out."""
        if value is None:
            return "", None
        if isinstance(value, str) and value in self.objectives:
            return value, self.objectives[value]
        return self._objective(value, place, tuple(self.objectives))

    def chosen_unlabelled(self, value: object, place: str) -> tuple[str, Unlabelled | None]:
        """Language modelling beside a cell's task, in place, with its label; None where the cell leaves it out."""
        if value is None:
            return "", None
        return "unlabelled", from_mapping(Unlabelled, self.table(value, place), path=place, source=self.source)

    def soft_labels(self, value: str | None, place: str) -> Path | None:
        """Where the soft labels of a cell are; paths count from the plan's folder.

        Raises:
            InputError: there are none.
        """
        if value is None:
            return None
        path = Path(os.path.normpath(self.folder / Path(value).expanduser()))
        try:
            check_soft_source(path)
        except InputError as error:
            raise InputError(f"{place}{within(self.source)}: {error}") from None
        return path

    def chosen_training(self, value: object, place: str) -> tuple[str, Training | None]:
        """The training of a cell, by name or in place, with its label; None where the cell leaves it out."""
        if value is None:
            return "", None
        if isinstance(value, str):
            if value not in self.trainings:
                raise InputError(
                    f"{place}{within(self.source)}: there is no training {value!r} in [trainings]. {near(value, self.trainings)}"
                )
            return value, self.trainings[value]
        return "", from_mapping(Training, self.table(value, place), path=place, source=self.source)

    def _method(self, value: object, place: str, entries: Sequence[str] = (), default: str | None = None) -> tuple[str, Method]:
        """A method by name, or by a table of its name and settings; with the name."""
        known = catalogue()
        name, settings = self._named(value, place, default if default in known else None)
        if name not in known:
            raise InputError(f"{place}{within(self.source)}: there is no method {name!r}. {near(name, (*entries, *known))}")
        return name, from_mapping(known[name], settings, path=place, source=self.source)

    def _strategy(
        self, value: object, place: str, entries: Sequence[str] = (), default: str | None = None
    ) -> tuple[str, Strategy]:
        """Likewise a strategy."""
        known = Strategy.variants()
        name, settings = self._named(value, place, default if default in known else None)
        if name not in known:
            raise InputError(f"{place}{within(self.source)}: there is no strategy {name!r}. {near(name, (*entries, *known))}")
        return name, from_mapping(known[name], self._from_here(settings), path=place, source=self.source)

    def _objective(
        self, value: object, place: str, entries: Sequence[str] = (), default: str | None = None
    ) -> tuple[str, Objective]:
        """Likewise an objective."""
        known = Objective.variants()
        name, settings = self._named(value, place, default if default in known else None)
        if name not in known:
            raise InputError(f"{place}{within(self.source)}: there is no objective {name!r}. {near(name, (*entries, *known))}")
        return name, from_mapping(known[name], settings, path=place, source=self.source)

    def _readout(
        self,
        value: object,
        place: str,
        entries: Sequence[str] = (),
        default: str | None = None,
        strategy: Strategy | None = None,
    ) -> tuple[str, AnyReadout]:
        """Likewise a readout."""
        name, settings = self._named(value, place, default if default in READOUT_NAMES else None)
        if name not in READOUT_NAMES:
            raise InputError(
                f"{place}{within(self.source)}: there is no readout {name!r}. {near(name, (*entries, *READOUT_NAMES))}"
            )
        if name == MAJORITY:
            return name, from_mapping(Majority, settings, path=place, source=self.source)
        if PROMPT in settings:
            settings = self._prompted(name, settings, place)
        if strategy is not None and strategy.finds and get_readout(name) is Verbalizer and self.task is not None:
            settings = strategy.filled(settings, self.task())
        return name, from_mapping(get_readout(name), self._from_here(settings), path=place, source=self.source)

    def _prompted(self, name: str, settings: Mapping[str, object], place: str) -> dict[str, object]:
        """The settings of a readout with the pattern that the card has under a name, and what goes with it there."""
        wanted = self._text(settings[PROMPT], f"{place}.{PROMPT}", "the name of one of the card's patterns")
        cls = get_readout(name)
        clash = next((key for key in ("pattern", "words", "options") if key in settings), None)
        if clash is not None or cls not in _PROMPTED:
            what = f"a {name} has none" if clash is None else f"{clash} is given too"
            raise InputError(
                f"{place}.{PROMPT}{within(self.source)} names a pattern and what goes with it, but {what}. Leave one out."
            )
        if self.task is None:
            raise InputError(
                f"{place}.{PROMPT}{within(self.source)} is a pattern of the task's card, but the plan names no task, and "
                "none is given."
            )
        found = self.task().prompt(wanted)
        given = {key: value for key in _PROMPTED[cls] if (value := getattr(found, key))}
        rest = {key: value for key, value in settings.items() if key != PROMPT}
        return {"pattern": found.pattern, **given, **rest}

    def _named(self, value: object, place: str, default: str | None) -> tuple[str, dict[str, object]]:
        """The name and the settings of "name" or { name = …, setting = … }; an entry's key may stand for its name."""
        if isinstance(value, str):
            return value, {}
        settings = dict(self.table(value, place))
        name = settings.pop("name", default)
        if name is None:
            raise InputError(f'{place}{within(self.source)} needs a name, such as name = "lora".')
        return self._text(name, f"{place}.name", "a name"), settings

    def _base(self, value: object, place: str) -> BaseSource:
        table = {"source": value} if isinstance(value, str) else self.table(value, place)
        base = from_mapping(BaseSource, table, path=place, source=self.source)
        return replace(base, source=_located(base.source, self.folder, f"{place}{within(self.source)}"))

    def _from_here(self, settings: Mapping[str, object]) -> dict[str, object]:
        """Settings in which what names a file or folder that is there, counted from the plan's folder, is that one."""

        def place(value: object) -> object:
            path = Path(os.path.normpath(self.folder / Path(value).expanduser())) if isinstance(value, str) else None
            return str(path) if path is not None and path.exists() else value

        found: dict[str, object] = {}
        for key, value in settings.items():
            if isinstance(value, Mapping):
                found[key] = self._from_here(value)
            elif key in _FOLDERS:
                found[key] = [place(item) for item in value] if isinstance(value, list | tuple) else place(value)
            else:
                found[key] = value
        return found

    def table(self, value: object, place: str) -> Mapping[str, object]:
        """The value, if it is a table.

        Raises:
            InputError: it is none.
        """
        if not isinstance(value, Mapping):
            raise InputError(f"{place}{within(self.source)} must be a table; found {found(value)}.")
        return value

    def _text(self, value: object, place: str, asked: str) -> str:
        if not isinstance(value, str):
            raise InputError(f"{place}{within(self.source)} must be {asked}; found {found(value)}.")
        return value


def _located(source: str, folder: Path, place: str) -> str:
    """A base's source with paths counted from the plan's folder. What is no path is taken for a hub id.

    Raises:
        InputError: it looks like a path and nothing is there.
    """
    path = Path(os.path.normpath(folder / Path(source).expanduser()))
    if path.exists():
        return str(path)
    if source.startswith((".", "/", "~")) or source.endswith(".gguf") or source.count("/") > 1:
        raise InputError(f"{place}: there is no file or folder {path}. Paths count from the plan's folder.")
    return source


def within(source: str) -> str:
    """How a message names the file; "" without one."""
    return f" in {source}" if source else ""
