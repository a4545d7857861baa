"""Data sets of the `datasets` library: by id, from a folder it saved, or from a folder of data files."""

from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from lmtailor.core.errors import DataError, near
from lmtailor.tasks.table import Table


def read_dataset(source: str | Path, *, split: str, name: str | None = None, revision: str | None = None) -> Table:
    """One split as a table. Named classes become their names.

    Columns hold plain values, or lists or mappings of them, such as words with their tags and SQuAD's answers; others, such as
    pictures, are left out.

    Args:
        source: an id ("org/name"), or a path to a folder.
        split: the split's name; for an id or a folder of data files also a slice such as "train[:1000]".
        name: the configuration, where the data set has several.
        revision: of an id: a commit, tag or branch.

    Raises:
        DataError: the data set, its configuration or its split is not there or cannot be loaded.
    """
    place = f"{source}{f' ({name})' if name else ''}"
    try:
        data = (
            _from_disk(source, split)
            if _saved(source)
            else datasets.load_dataset(str(source), name, split=split, revision=revision)
        )
    except (DatasetsError, OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"Cannot load the split {split!r} of the data set {place}: {reason}") from error
    columns: dict[str, list[object]] = {}
    for column, feature in data.features.items():
        if _is_plain(feature):
            columns[column] = [_named(cell, feature) for cell in data[column]]
    return Table(source=f"{place} [{split}]", columns=columns)


def _is_plain(feature: object) -> bool:
    """Whether cells are plain values, or lists or mappings of them."""
    if isinstance(feature, datasets.List | datasets.LargeList):
        return _is_plain(feature.feature)
    if isinstance(feature, dict):
        return all(map(_is_plain, feature.values()))
    return isinstance(feature, datasets.ClassLabel | datasets.Value)


def _named(cell: Any, feature: Any) -> object:
    """A cell with the names of its classes; a class that is not known is None."""
    if cell is None:
        return None
    if isinstance(feature, datasets.ClassLabel):
        return None if cell < 0 else feature.names[cell]
    if isinstance(feature, datasets.List | datasets.LargeList):
        return [_named(one, feature.feature) for one in cell]
    if isinstance(feature, dict):
        return {name: _named(cell[name], own) for name, own in feature.items()}
    return cell


def _saved(source: str | Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return any((Path(source) / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _from_disk(source: str | Path, split: str) -> datasets.Dataset:
    data = datasets.load_from_disk(str(source))
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise ValueError(f"there is no such split. {near(split, data)}")
        return data[split]
    if str(data.split) != split:
        raise ValueError(f"the folder holds one split, {data.split}.")
    return data
