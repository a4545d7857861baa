"""Plans in TOML.

task = "tweets.toml"                     # the task's card; paths count from the plan's folder
seeds = [0, 1, 2]
metrics = ["macro_f1", "accuracy"]       # the first one ranks
reference = "probe"                      # optional: a cell that all others are set against

[budget]                                 # optional; also total_seconds, train_examples, shots, unlabelled
cell_seconds = 600

[bases]
minilm = "models/all-MiniLM-L6-v2"
smollm2 = { source = "models/smollm2.gguf", dtype = "float32" }

[methods]                                # settings by name; a method without settings needs no entry
lora16 = { name = "lora", rank = 16 }

[readouts.asked]
name = "verbalizer"
pattern = "{text} It was {mask}."        # or pattern_name = "was": a pattern of the card by its name, with its words
words = { negative = ["terrible"], positive = ["great"] }

[trainings]
long = { epochs = 10 }

[[cells]]                                # one cell: names of entries, or tables in place
name = "LoRA"
base = "minilm"
readout = "head"
method = { name = "lora", rank = 8 }
training = "long"

[strategies.ipet]                        # a way of more than one fit
name = "pet"
generations = 3

[[cells]]                                # what a strategy's cell leaves out is the strategy's own choice
strategy = "ipet"
method = "lora16"

[[cells]]                                # a product: every combination but those excluded
base = ["minilm", "smollm2"]
method = ["lora16", "bitfit", "prefix"]
exclude = [{ base = "smollm2", method = "prefix" }]
name = "{method} on {base}"

What a cell without strategy leaves out: the head as readout, the frozen method, `Training()`, the only base, the plan's seeds.
The readout "majority" is the baseline; it is added by itself unless `baseline = false`.
"""

import itertools
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from lmtailor.compare.plan import MAJORITY, READOUT_NAMES, AnyReadout, BaseSource, Budget, Cell, Majority, Plan
from lmtailor.core.errors import InputError, near
from lmtailor.core.settings import apply_overrides, from_mapping
from lmtailor.core.typed import found
from lmtailor.fit.training import Training
from lmtailor.methods import catalogue
from lmtailor.methods.method import Method
from lmtailor.readouts.registry import get_readout
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.strategies.strategy import Strategy
from lmtailor.tasks.card import load_task

T = TypeVar("T")

PROMPT = "pattern_name"
"""Setting of a verbalizer in a plan, instead of pattern and words: the name of one of the card's patterns."""
_CHOICES = ("base", "readout", "method", "training", "strategy")
_SECTIONS = ("bases", "methods", "readouts", "trainings", "strategies", "cells")


@dataclass(frozen=True, kw_only=True)
class _Top:
    """The keys of a plan that are no tables of entries."""

    task: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    metrics: tuple[str, ...] = ()
    reference: str | None = None
    baseline: bool = True
    batch_size: int = 32
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True, kw_only=True)
class _Exclude:
    """A combination that is left out of a product; what it does not name is any."""

    base: str | None = None
    readout: str | None = None
    method: str | None = None
    training: str | None = None
    strategy: str | None = None


@dataclass(frozen=True, kw_only=True)
class _CellTop:
    """The keys of a cell besides its choices."""

    name: str | None = None
    seeds: tuple[int, ...] | None = None


def read_plan(path: str | Path, *, overrides: Iterable[str] = ()) -> Plan:
    """Read a plan.

    Args:
        path: the TOML file.
        overrides: `key.path=value` texts that are set in it first, such as "budget.total_seconds=600".

    Raises:
        InputError: no file, no TOML, or something in it that is unknown or does not fit; the message names the place.
    """
    file = Path(path).expanduser()
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read the plan {file}: {error.strerror or error}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"The plan {file} is not valid TOML: {error}.") from error
    return plan_from_mapping(apply_overrides(values, overrides), folder=file.parent, source=file.name)


def plan_from_mapping(values: Mapping[str, object], *, folder: Path = Path(), source: str = "") -> Plan:
    """A plan from tables.

    Args:
        values: as the module's docstring shows them.
        folder: from which paths count.
        source: the file's name, for messages.

    Raises:
        InputError: something is unknown or does not fit.
    """
    return _Reader(values, folder, source).plan()


class _Reader:
    """One plan while it is read."""

    def __init__(self, values: Mapping[str, object], folder: Path, source: str) -> None:
        known = (*_Top.__dataclass_fields__, *_SECTIONS)
        for key in values:
            if key not in known:
                raise InputError(f"{key}{_in(source)} is not a key of a plan. {near(key, known)}")
        self.folder, self.source = folder, source
        self.top = from_mapping(_Top, {key: value for key, value in values.items() if key not in _SECTIONS}, source=source)
        entries = {name: self._table(values.get(name, {}), name) for name in _SECTIONS[:-1]}
        self.bases = {name: self._base(value, f"bases.{name}") for name, value in entries["bases"].items()}
        self.methods = {
            name: self._method(value, f"methods.{name}", default=name)[1] for name, value in entries["methods"].items()
        }
        self.readouts = {
            name: self._readout(value, f"readouts.{name}", default=name)[1] for name, value in entries["readouts"].items()
        }
        self.trainings = {
            name: from_mapping(Training, self._table(value, f"trainings.{name}"), path=f"trainings.{name}", source=source)
            for name, value in entries["trainings"].items()
        }
        self.strategies = {
            name: self._strategy(value, f"strategies.{name}", default=name)[1] for name, value in entries["strategies"].items()
        }
        self.cells = values.get("cells", [])

    def plan(self) -> Plan:
        """All of it."""
        if not isinstance(self.cells, Sequence) or isinstance(self.cells, str):
            raise InputError(f"cells{_in(self.source)} must be tables, each under [[cells]]; found {found(self.cells)}.")
        cells = [cell for number, table in enumerate(self.cells) for cell in self._cells(table, f"cells[{number}]")]
        top = self.top
        plan = Plan(
            cells=tuple(cells),
            bases=self.bases,
            task=self.task,
            metrics=top.metrics,
            budget=top.budget,
            reference=top.reference,
            baseline=top.baseline,
            batch_size=top.batch_size,
        )
        return plan.resolved(self.bases) if self.bases else plan

    def _cells(self, value: object, place: str) -> Iterable[Cell]:
        """The cells of one table: one, or a product."""
        table = self._table(value, place)
        known = (*_CellTop.__dataclass_fields__, *_CHOICES, "exclude")
        for key in table:
            if key not in known:
                raise InputError(f"{place}.{key}{_in(self.source)} is not a key of a cell. {near(key, known)}")
        own = from_mapping(
            _CellTop, {key: table[key] for key in table if key in _CellTop.__dataclass_fields__}, path=place, source=self.source
        )
        seeds = self.top.seeds if own.seeds is None else own.seeds
        bases = self._choices(table.get("base"), f"{place}.base", self._base_name)
        strategies = self._choices(table.get("strategy"), f"{place}.strategy", self._chosen_strategy)
        plain = any(strategy is None for _, strategy in strategies)
        readouts = self._choices(table.get("readout", "head" if plain else None), f"{place}.readout", self._chosen_readout)
        methods = self._choices(table.get("method", "frozen" if plain else None), f"{place}.method", self._chosen_method)
        trainings = self._choices(table.get("training"), f"{place}.training", self._chosen_training)
        if any(isinstance(readout, Majority) for _, readout in readouts):
            if len(readouts) > 1 or set(table) - {"name", "readout"}:
                raise InputError(f'{place}{_in(self.source)} is the baseline: with readout = "majority" it has at most a name.')
            return [Cell(name=own.name or "majority", readout=Majority(), seeds=(0,))]
        excluded = self._excluded(table.get("exclude", []), place, (bases, readouts, methods, trainings, strategies))
        cells = []
        for combination in itertools.product(bases, readouts, methods, trainings, strategies):
            labels = dict(zip(_CHOICES, (label for label, _ in combination), strict=True))
            if any(all(labels[key] == asked for key, asked in one.items()) for one in excluded):
                continue
            (_, base), (_, readout), (_, method), (_, training), (_, strategy) = combination
            name = _name(own.name, labels, len(trainings) > 1)
            cells.append(
                Cell(name=name, base=base, strategy=strategy, readout=readout, method=method, training=training, seeds=seeds)
            )
        if not cells:
            raise InputError(f"{place}{_in(self.source)} excludes every combination, so it has no cell. Leave the table out.")
        return cells

    def _excluded(self, value: object, place: str, choices: Sequence[Sequence[tuple[str, object]]]) -> list[dict[str, str]]:
        """Combinations to leave out, as choice → label. Each must name labels that are there."""
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise InputError(f"{place}.exclude{_in(self.source)} must be a list of tables; found {found(value)}.")
        excluded = []
        for number, table in enumerate(value):
            path = f"{place}.exclude[{number}]"
            one = from_mapping(_Exclude, self._table(table, path), path=path, source=self.source)
            named = {key: asked for key in _CHOICES if (asked := getattr(one, key)) is not None}
            for key, labelled in zip(_CHOICES, choices, strict=True):
                labels = [label for label, _ in labelled]
                if key in named and named[key] not in labels:
                    raise InputError(
                        f"{path}.{key}{_in(self.source)} is {named[key]!r}, not one of the cell's. {near(named[key], labels)}"
                    )
            excluded.append(named)
        return excluded

    def _choices(self, value: object, place: str, choose: Callable[[object, str], tuple[str, T]]) -> list[tuple[str, T]]:
        """One choice or a list of them, each with the label that stands for it in names."""
        if not isinstance(value, list | tuple):
            return [choose(value, place)]
        if not value:
            raise InputError(f"{place}{_in(self.source)} is an empty list. Name at least one, or leave it out.")
        return [choose(item, f"{place}[{number}]") for number, item in enumerate(value)]

    def _base_name(self, value: object, place: str) -> tuple[str, str | None]:
        if value is None:
            return next(iter(self.bases)) if len(self.bases) == 1 else "", None
        name = self._text(value, place, "the name of a base")
        if self.bases and name not in self.bases:
            raise InputError(f"{place}{_in(self.source)}: there is no base {name!r}. {near(name, self.bases)}")
        return name, name

    def _chosen_readout(self, value: object, place: str) -> tuple[str, AnyReadout | None]:
        if value is None:
            return "", None
        if isinstance(value, str) and value in self.readouts:
            return value, self.readouts[value]
        return self._readout(value, place, tuple(self.readouts))

    def _chosen_method(self, value: object, place: str) -> tuple[str, Method | None]:
        if value is None:
            return "", None
        if isinstance(value, str) and value in self.methods:
            return value, self.methods[value]
        return self._method(value, place, tuple(self.methods))

    def _chosen_strategy(self, value: object, place: str) -> tuple[str, Strategy | None]:
        if value is None:
            return "", None
        if isinstance(value, str) and value in self.strategies:
            return value, self.strategies[value]
        return self._strategy(value, place, tuple(self.strategies))

    def _chosen_training(self, value: object, place: str) -> tuple[str, Training | None]:
        if value is None:
            return "", None
        if isinstance(value, str):
            if value not in self.trainings:
                raise InputError(
                    f"{place}{_in(self.source)}: there is no training {value!r} in [trainings]. {near(value, self.trainings)}"
                )
            return value, self.trainings[value]
        return "", from_mapping(Training, self._table(value, place), path=place, source=self.source)

    def _method(self, value: object, place: str, entries: Sequence[str] = (), default: str | None = None) -> tuple[str, Method]:
        """A method by name, or by a table of its name and settings; with the name."""
        known = catalogue()
        name, settings = self._named(value, place, default if default in known else None)
        if name not in known:
            raise InputError(f"{place}{_in(self.source)}: there is no method {name!r}. {near(name, (*entries, *known))}")
        return name, from_mapping(known[name], settings, path=place, source=self.source)

    def _strategy(
        self, value: object, place: str, entries: Sequence[str] = (), default: str | None = None
    ) -> tuple[str, Strategy]:
        """Likewise a strategy."""
        known = Strategy.variants()
        name, settings = self._named(value, place, default if default in known else None)
        if name not in known:
            raise InputError(f"{place}{_in(self.source)}: there is no strategy {name!r}. {near(name, (*entries, *known))}")
        return name, from_mapping(known[name], settings, path=place, source=self.source)

    def _readout(
        self, value: object, place: str, entries: Sequence[str] = (), default: str | None = None
    ) -> tuple[str, AnyReadout]:
        """Likewise a readout."""
        name, settings = self._named(value, place, default if default in READOUT_NAMES else None)
        if name not in READOUT_NAMES:
            raise InputError(f"{place}{_in(self.source)}: there is no readout {name!r}. {near(name, (*entries, *READOUT_NAMES))}")
        if name == MAJORITY:
            return name, from_mapping(Majority, settings, path=place, source=self.source)
        if PROMPT in settings:
            settings = self._prompted(name, settings, place)
        return name, from_mapping(get_readout(name), settings, path=place, source=self.source)

    def _prompted(self, name: str, settings: Mapping[str, object], place: str) -> dict[str, object]:
        """The settings of a verbalizer with the pattern and the words that the card has under a name."""
        wanted = self._text(settings[PROMPT], f"{place}.{PROMPT}", "the name of one of the card's patterns")
        clash = next((key for key in ("pattern", "words") if key in settings), None)
        if clash is not None or get_readout(name) is not Verbalizer:
            what = "a head has none" if clash is None else f"{clash} is given too"
            raise InputError(f"{place}.{PROMPT}{_in(self.source)} names a pattern and its words, but {what}. Leave one out.")
        if self.task is None:
            raise InputError(f"{place}.{PROMPT}{_in(self.source)} is a pattern of the task's card, but the plan names no task.")
        found = load_task(self.task).prompt(wanted)
        rest = {key: value for key, value in settings.items() if key != PROMPT}
        return {"pattern": found.pattern, "words": dict(found.words), **rest}

    @property
    def task(self) -> Path | None:
        """The card, with its path counted from the plan's folder."""
        return None if self.top.task is None else Path(os.path.normpath(self.folder / Path(self.top.task).expanduser()))

    def _named(self, value: object, place: str, default: str | None) -> tuple[str, dict[str, object]]:
        """The name and the settings of "name" or { name = …, setting = … }; an entry's key may stand for its name."""
        if isinstance(value, str):
            return value, {}
        settings = dict(self._table(value, place))
        name = settings.pop("name", default)
        if name is None:
            raise InputError(f'{place}{_in(self.source)} needs a name, such as name = "lora".')
        return self._text(name, f"{place}.name", "a name"), settings

    def _base(self, value: object, place: str) -> BaseSource:
        table = {"source": value} if isinstance(value, str) else self._table(value, place)
        base = from_mapping(BaseSource, table, path=place, source=self.source)
        return replace(base, source=_located(base.source, self.folder, f"{place}{_in(self.source)}"))

    def _table(self, value: object, place: str) -> Mapping[str, object]:
        if not isinstance(value, Mapping):
            raise InputError(f"{place}{_in(self.source)} must be a table; found {found(value)}.")
        return value

    def _text(self, value: object, place: str, asked: str) -> str:
        if not isinstance(value, str):
            raise InputError(f"{place}{_in(self.source)} must be {asked}; found {found(value)}.")
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


def _name(asked: str | None, labels: Mapping[str, str], several_trainings: bool) -> str:
    """A cell's name: as asked, with {base}, {readout}, {method}, {training} and {strategy} filled in, or made of the choices."""
    if asked is not None:
        for key, label in labels.items():
            asked = asked.replace(f"{{{key}}}", label)
        return asked
    keys = ("strategy", "method", "readout", "base", *(("training",) if several_trainings else ()))
    return " · ".join(labels[key] for key in keys if labels[key])


def _in(source: str) -> str:
    return f" in {source}" if source else ""
