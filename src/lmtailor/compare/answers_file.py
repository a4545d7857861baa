"""The answers of a run as files: numbers as tensors, texts as JSON.

Both are read as data of strangers: nothing is unpickled, and a file that is damaged, or larger than any that is written here, is
as good as none.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from lmtailor.compare.answers import Answers, AnyAnswers, Numbers, Texts
from lmtailor.core.errors import DataError
from lmtailor.core.files import write_bytes

NUMBERS, TEXTS = "predictions.safetensors", "predictions.json"

_FIELDS = ("asked", "predicted", "reference")

LARGEST = 256 * 2**20
"""The most bytes that the texts of a run may take."""


def write_answers(folder: Path, answers: Mapping[str, AnyAnswers]) -> None:
    """Keep the answers of a run.

    Raises:
        DataError: the texts are too large; nothing was written.
        InputError: the folder cannot be written.
    """
    texts = {split: one for split, one in answers.items() if isinstance(one, Texts)}
    if texts:
        plain = {split: {name: getattr(one, name) for name in _FIELDS} for split, one in texts.items()}
        content = json.dumps(plain).encode("ascii")  # escaped, since a text may hold half of a surrogate pair
        if len(content) > LARGEST:
            raise DataError(
                f"The answers with their references take {len(content) / 2**20:.0f} MiB; {LARGEST // 2**20} are kept at most. "
                "Limit the splits (--set task.limits.test=1000)."
            )
        write_bytes(folder / TEXTS, content)
    arrays: dict[str, Numbers] = {}
    for split, one in answers.items():
        if isinstance(one, Answers):
            arrays[f"{split}.predicted"] = np.ascontiguousarray(one.predicted)
            arrays[f"{split}.reference"] = np.ascontiguousarray(one.reference)
    if arrays or not texts:
        write_bytes(folder / NUMBERS, save(arrays))


def read_answers(folder: Path) -> dict[str, AnyAnswers] | None:
    """Split → answers; None if they are not there, or not whole."""
    return _texts(folder / TEXTS) if (folder / TEXTS).exists() else _numbers(folder / NUMBERS)


def _numbers(path: Path) -> dict[str, AnyAnswers] | None:
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError):
        return None
    splits = [name.removesuffix(".predicted") for name in arrays if name.endswith(".predicted")]
    try:
        return {
            split: Answers(predicted=arrays[f"{split}.predicted"], reference=arrays[f"{split}.reference"]) for split in splits
        }
    except KeyError:
        return None


def _texts(path: Path) -> dict[str, AnyAnswers] | None:
    try:
        if path.stat().st_size > LARGEST:
            return None
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    read = {split: _read(value) for split, value in found.items()}
    whole: dict[str, AnyAnswers] = {split: one for split, one in read.items() if one is not None}
    return whole if len(whole) == len(read) else None


def _read(value: object) -> Texts | None:
    """The texts of one split; None if they are not as they are written."""
    if not isinstance(value, dict) or set(value) != set(_FIELDS):
        return None
    asked, predicted, reference = (value[name] for name in _FIELDS)
    if not (_are_texts(asked) and _are_texts(predicted) and isinstance(reference, list) and all(map(_are_texts, reference))):
        return None
    if not len(asked) == len(predicted) == len(reference):
        return None
    return Texts(asked=tuple(asked), predicted=tuple(predicted), reference=tuple(map(tuple, reference)))


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
