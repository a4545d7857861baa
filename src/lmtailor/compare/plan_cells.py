"""The cells of a plan's file: each table is one cell, or a product of choices, swept settings and training sizes."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from lmtailor.compare.plan import Cell, Majority
from lmtailor.compare.plan_entries import Entries, within
from lmtailor.compare.plan_sweeps import SWEPT, Value, read_sweep, with_settings
from lmtailor.compare.positions import EXAMPLES, Mark, marked_name, positions_of
from lmtailor.core.errors import InputError, near
from lmtailor.core.settings import from_mapping
from lmtailor.core.typed import found

T = TypeVar("T")
Labelled = list[tuple[str, T]]
"""Choices, each with the label that stands for it in names."""

_CHOICES = ("base", "readout", "method", "training", "strategy", "objective", "unlabelled")
_KEYS = (*_CHOICES, "exclude", "sweep")


@dataclass(frozen=True, kw_only=True)
class _Exclude:
    """A combination that is left out of a product; what it does not name is any."""

    base: str | None = None
    readout: str | None = None
    method: str | None = None
    training: str | None = None
    strategy: str | None = None
    objective: str | None = None
    unlabelled: str | None = None


@dataclass(frozen=True, kw_only=True)
class _CellTop:
    """The keys of a cell besides its choices."""

    name: str | None = None
    seeds: tuple[int, ...] | None = None
    sizes: tuple[int, ...] | None = None
    soft_labels: str | None = None


class CellReader:
    """Makes cells of tables."""

    def __init__(self, entries: Entries, *, seeds: tuple[int, ...], sizes: tuple[int, ...]) -> None:
        """Keep what cells share.

        Args:
            entries: what they may name.
            seeds: of cells that name none.
            sizes: training sizes of cells that name none.
        """
        self.entries, self.seeds, self.sizes = entries, seeds, sizes
        self._check_sizes(sizes, "sizes")

    def cells(self, value: object, place: str) -> list[Cell]:
        """The cells of one table.

        Raises:
            InputError: something is unknown or does not fit.
        """
        table, source = self.entries.table(value, place), self.entries.source
        known = (*_CellTop.__dataclass_fields__, *_KEYS)
        for key in table:
            if key not in known:
                raise InputError(f"{place}.{key}{within(source)} is not a key of a cell. {near(key, known)}")
        own = {key: table[key] for key in table if key in _CellTop.__dataclass_fields__}
        top = from_mapping(_CellTop, own, path=place, source=source)
        choices = self._all_choices(table, place)
        if any(isinstance(readout, Majority) for _, readout in choices["readout"]):
            if len(choices["readout"]) > 1 or set(table) - {"name", "readout"}:
                raise InputError(f'{place}{within(source)} is the baseline: with readout = "majority" it has at most a name.')
            return [Cell(name=top.name or "majority", readout=Majority(), seeds=(0,))]
        excluded = self._excluded(table.get("exclude", []), place, choices)
        self._check_sizes(top.sizes or (), f"{place}.sizes")
        sweep = read_sweep(table.get("sweep", {}), f"{place}.sweep", source)
        cells = [
            cell
            for combination in _combinations(choices, excluded)
            for values in sweep
            for cell in self._sized(self._cell(combination, values, top, place, _several(choices)), values, top)
        ]
        if not cells:
            raise InputError(f"{place}{within(source)} excludes every combination, so it has no cell. Leave the table out.")
        if top.sizes and all(cell.fixed for cell in cells):
            raise InputError(
                f"{place}.sizes{within(source)}: nothing is trained and nothing drawn, so training sizes make no difference. "
                "Leave them out."
            )
        return cells

    def _all_choices(self, table: Mapping[str, object], place: str) -> dict[str, Labelled[Any]]:
        """What each choice of the cell may be."""
        entries = self.entries
        strategies = self._choices(table.get("strategy"), f"{place}.strategy", entries.chosen_strategy)
        plain = any(strategy is None for _, strategy in strategies)
        chosen_readout = partial(entries.chosen_readout, strategy=strategies[0][1] if len(strategies) == 1 else None)
        return {
            "base": self._choices(table.get("base"), f"{place}.base", entries.base_name),
            "readout": self._choices(table.get("readout"), f"{place}.readout", chosen_readout),
            "method": self._choices(table.get("method", "frozen" if plain else None), f"{place}.method", entries.chosen_method),
            "training": self._choices(table.get("training"), f"{place}.training", entries.chosen_training),
            "strategy": strategies,
            "objective": self._choices(table.get("objective"), f"{place}.objective", entries.chosen_objective),
            "unlabelled": self._choices(table.get("unlabelled"), f"{place}.unlabelled", entries.chosen_unlabelled),
        }

    def _choices(self, value: object, place: str, choose: Callable[[object, str], tuple[str, T]]) -> Labelled[T]:
        """One choice or a list of them."""
        if not isinstance(value, list | tuple):
            return [choose(value, place)]
        if not value:
            raise InputError(f"{place}{within(self.entries.source)} is an empty list. Name at least one, or leave it out.")
        return [choose(item, f"{place}[{number}]") for number, item in enumerate(value)]

    def _excluded(self, value: object, place: str, choices: Mapping[str, Labelled[Any]]) -> list[dict[str, str]]:
        """Combinations to leave out, as choice → label. Each must name labels that are there."""
        source = self.entries.source
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise InputError(f"{place}.exclude{within(source)} must be a list of tables; found {found(value)}.")
        excluded = []
        for number, table in enumerate(value):
            path = f"{place}.exclude[{number}]"
            one = from_mapping(_Exclude, self.entries.table(table, path), path=path, source=source)
            named = {key: asked for key in _CHOICES if (asked := getattr(one, key)) is not None}
            for key, asked in named.items():
                labels = [label for label, _ in choices[key]]
                if asked not in labels:
                    raise InputError(f"{path}.{key}{within(source)} is {asked!r}, not one of the cell's. {near(asked, labels)}")
            excluded.append(named)
        return excluded

    def _cell(
        self,
        combination: Mapping[str, tuple[str, Any]],
        values: Sequence[Value],
        top: _CellTop,
        place: str,
        several: Sequence[str],
    ) -> Cell:
        """One cell at all training examples, under its name without marks."""
        labels = {key: label for key, (label, _) in combination.items()}
        chosen: dict[str, Any] = {key: one for key, (_, one) in combination.items()}
        cell = Cell(
            name=_name(top.name, labels, several),
            seeds=self.seeds if top.seeds is None else top.seeds,
            soft_labels=self.entries.soft_labels(top.soft_labels, f"{place}.soft_labels"),
            **chosen,
        )
        settings = {path: value for one in values for path, value in one.settings.items()}
        changed: dict[str, Any] = {
            choice: with_settings(
                getattr(cell, choice),
                {path.partition(".")[2]: value for path, value in settings.items() if path.partition(".")[0] == choice},
                choice,
                f"{place}.sweep",
                self.entries.source,
            )
            for choice in SWEPT
        }
        return replace(cell, **changed)

    def _sized(self, cell: Cell, values: Sequence[Value], top: _CellTop) -> Iterator[Cell]:
        """The cell with its marks, once for each training size that makes a difference."""
        sizes = self.sizes if top.sizes is None else top.sizes
        everything = f"{{{EXAMPLES}}}"
        for size in (None,) if cell.fixed or not sizes else sizes:
            marks = [value.mark for value in values]
            name = cell.name if size is not None else cell.name.replace(everything, "all")
            if size is not None:
                said = f"{size} example{'s' if size != 1 else ''}"
                marks.append(Mark(axis=EXAMPLES, said=said, text=str(size), number=float(size)))
            yield replace(cell, name=marked_name(name, marks), examples=size, positions=positions_of(name, marks))

    def _check_sizes(self, sizes: Sequence[int], place: str) -> None:
        if min(sizes, default=1) < 1 or len(set(sizes)) != len(sizes):
            raise InputError(
                f"{place}{within(self.entries.source)} must be distinct numbers of training examples, at least 1; "
                f"found {list(sizes)}."
            )


def _combinations(
    choices: Mapping[str, Labelled[Any]], excluded: Sequence[Mapping[str, str]]
) -> Iterator[dict[str, tuple[str, Any]]]:
    """Every combination of choices but those excluded."""
    for chosen in itertools.product(*(choices[key] for key in _CHOICES)):
        combination = dict(zip(_CHOICES, chosen, strict=True))
        if not any(all(combination[key][0] == asked for key, asked in one.items()) for one in excluded):
            yield combination


def _several(choices: Mapping[str, Labelled[Any]]) -> list[str]:
    """Choices that stand in a name only where there are several of them."""
    return [key for key in ("training", "objective", "unlabelled") if len(choices[key]) > 1]


def _name(asked: str | None, labels: Mapping[str, str], several: Sequence[str]) -> str:
    """A cell's name: as asked, with {base}, {readout}, {method} and other choices filled in, or made of the choices."""
    if asked is not None:
        for key, label in labels.items():
            asked = asked.replace(f"{{{key}}}", label)
        return asked
    keys = ("strategy", "method", "readout", "base", *several)
    return " · ".join(labels[key] for key in keys if labels[key])
