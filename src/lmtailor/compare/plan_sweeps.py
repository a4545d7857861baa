"""Sweeps in a plan's file: a cell for each value of a setting.

sweep = { "method.length" = [1, 5, 10, 20] }            # a setting of the method, readout, training, …
sweep = { "method.lr" = [1e-3, 1e-2], "method.rank" = [4, 8] }    # every combination
[cells.sweep.start]                                     # an axis with a name, whose values set several settings
random = {}
words = { "method.init" = "text", "method.text" = "a good film" }
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING

from lmtailor.compare.plan_entries import within
from lmtailor.compare.positions import EXAMPLES, Mark
from lmtailor.core.errors import InputError, near
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.core.typed import found

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SWEPT = ("method", "readout", "training", "strategy", "objective", "unlabelled")
"""The choices of a cell whose settings can be swept."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """One value of one axis."""

    mark: Mark
    settings: Mapping[str, object]
    """Path such as "method.length" → value; empty: as the cell is."""


def read_sweep(value: object, place: str, source: str) -> list[tuple[Value, ...]]:
    """The combinations of values of a cell's sweep; one empty combination without a sweep.

    Raises:
        InputError: no table, an axis without values, a value twice, a setting on two axes, or a choice that is none.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{place}{within(source)} must be a table of settings with lists of values; found {found(value)}.")
    axes = [*_axes(value, place, source)]
    words = [axis.rpartition(".")[2] for axis, _ in axes]
    read = []
    for (axis, values), word in zip(axes, words, strict=True):
        known = word if words.count(word) == 1 else axis
        one = _named(axis, values, place, source) if isinstance(values, Mapping) else _listed(axis, known, values, place, source)
        texts = [item.mark.text for item in one]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice is not None:
            raise InputError(f"{place}.{axis}{within(source)} has the value {twice} twice. Name each once.")
        read.append(one)
    paths = [path for values in read for path in dict.fromkeys(path for one in values for path in one.settings)]
    both = next((path for path in paths if paths.count(path) > 1), None)
    if both is not None:
        raise InputError(f"{place}{within(source)} sets {both} on two axes, and only one could hold. Leave one out.")
    return list(itertools.product(*read))


def with_settings(settings: object, values: Mapping[str, object], choice: str, place: str, source: str) -> object:
    """A choice of a cell with some of its settings changed.

    Args:
        settings: the method, readout, training and so on; None where the cell has none of its own.
        values: path within it → value.
        choice: one of `SWEPT`.
        place: of the sweep.
        source: the file's name.

    Raises:
        InputError: there is nothing to change, or a setting is unknown or does not fit.
    """
    if not values:
        return settings
    path = f"{place}.{choice}"
    if not is_dataclass(settings) or isinstance(settings, type):
        raise InputError(f"{path}{within(source)}: the cell names no {choice}, so there is no setting to change. Name one.")
    return _changed(settings, values, path, source)


def _changed(settings: "DataclassInstance", values: Mapping[str, object], path: str, source: str) -> object:
    table = to_mapping(settings)
    for key, value in values.items():
        inner = table
        *outer, last = key.split(".")
        for step in outer:
            below = inner.get(step)
            inner[step] = inner = dict(below) if isinstance(below, Mapping) else {}
        inner[last] = value
    return from_mapping(type(settings), table, path=path, source=source)


def _axes(value: Mapping[str, object], place: str, source: str) -> Iterator[tuple[str, Mapping[str, object] | Sequence[object]]]:
    """Axes with their values. `method.length` in a key may be one quoted key or a table in a table."""
    for key, values in value.items():
        choice = key.partition(".")[0]
        if choice in SWEPT:
            yield from ((path, _list(item, f"{place}.{path}", source)) for path, item in flat({key: values}))
        elif "." in key or not isinstance(values, Mapping):
            raise InputError(
                f"{place}.{key}{within(source)} is no setting of a cell's {', '.join(SWEPT[:-1])} or {SWEPT[-1]}, such as "
                f'"method.length" = [1, 5]. {near(choice, SWEPT)}'
            )
        elif key in (EXAMPLES, "base"):
            raise InputError(f"{place}.{key}{within(source)} is an axis of its own: use sizes = [50, 100], or a list of bases.")
        elif not values:
            raise InputError(f"{place}.{key}{within(source)} has no values. Name at least one, or leave it out.")
        else:
            yield key, values


def _list(value: object, place: str, source: str) -> list[object]:
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{place}{within(source)} must be a list of at least one value; found {found(value)}.")
    return list(value)


def flat(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The values of nested tables with their dotted paths."""
    for key, value in table.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            yield from flat(value, path)
        else:
            yield path, value


def _listed(axis: str, word: str, values: Sequence[object], place: str, source: str) -> list[Value]:
    """The values of a setting."""
    if "." not in axis:
        raise InputError(f"{place}.{axis}{within(source)} needs the name of a setting, such as {axis}.lr.")
    read = []
    for number, value in enumerate(values):
        text = _text(value, f"{place}.{axis}[{number}]", source)
        number_or_none = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        mark = Mark(axis=axis, said=f"{word.replace('_', ' ')} {text}", text=text, number=number_or_none)
        read.append(Value(mark=mark, settings={axis: value}))
    return read


def _named(axis: str, values: Mapping[str, object], place: str, source: str) -> list[Value]:
    """The values of an axis with a name: each sets what it says."""
    read = []
    for name, settings in values.items():
        path = f"{place}.{axis}.{name}"
        if not isinstance(settings, Mapping):
            raise InputError(
                f'{path}{within(source)} must be a table of settings, such as {{ "method.init" = "text" }}; '
                f"found {found(settings)}."
            )
        paths = dict(flat(settings))
        for key in paths:
            if (choice := key.partition(".")[0]) not in SWEPT or "." not in key:
                raise InputError(
                    f"{path}.{key}{within(source)} must begin with {', '.join(SWEPT[:-1])} or {SWEPT[-1]} and name a setting. "
                    f"{near(choice, SWEPT)}"
                )
        read.append(Value(mark=Mark(axis=axis, said=name, text=name), settings=paths))
    return read


def _text(value: object, place: str, source: str) -> str:
    """A value as a name shows it.

    Raises:
        InputError: it is a table, which has no short name.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "+".join(_text(item, place, source) for item in value)
    if isinstance(value, Mapping):
        raise InputError(
            f"{place}{within(source)} is a table, which has no short name. Give the axis and each value a name: "
            f'{{ start = {{ a = {{ "method.init" = … }} }} }}.'
        )
    return str(value)
