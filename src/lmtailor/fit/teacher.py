"""Soft labels from where they are kept: a file of another model's answers, or an adapter of the same base, which is asked.

The file is what `lmtailor predict MODEL ADAPTER --file TRAIN` writes, JSON Lines with

    {"id": 17, "scores": {"negative": 0.2, "positive": 0.8}}

where `id` is the number of a row of the training file, from 1, or the name of an example, such as "train/16". It may be of any
model. Answers to rows that the task does not train on (a limit, few shots) are left out.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import DataError, InputError
from lmtailor.core.files import sha256
from lmtailor.fit.soft_labels import SoftLabels
from lmtailor.infer.evaluate import predict_examples
from lmtailor.store.folder import load_adapter
from lmtailor.tasks.task import Task

_SHAPE = '{"id": 1, "scores": {LABEL: SHARE, …}}'


def soft_labels_from(source: str | Path, base: Base, task: Task, *, batch_size: int = 32) -> SoftLabels:
    """What the training examples should be answered.

    Args:
        source: the file, or the folder of an adapter.
        base: of the adapter.
        task: its train split is answered.
        batch_size: examples a batch, where an adapter is asked.

    Raises:
        InputError: there is nothing there, labels differ from the task's, or an example has no answer.
        DataError: a line of the file that is no answer.
        AdapterFileError: the adapter is damaged, or of another base.
    """
    check_soft_source(source)
    path = Path(source)
    return _asked(path, base, task, batch_size) if path.is_dir() else _read(path, task)


def check_soft_source(source: str | Path) -> None:
    """See that there is something to take soft labels from.

    Raises:
        InputError: there is not.
    """
    path = Path(source)
    if not path.exists() or (path.is_dir() and not (path / "adapter.json").exists()):
        raise InputError(
            f"There are no soft labels in {path}. Name a file of answers, as `lmtailor predict MODEL ADAPTER --file train.csv` "
            "writes them, or the folder of an adapter of the same base."
        )


def soft_source_digest(source: str | Path) -> str:
    """SHA-256 of the file, or of all files of the adapter, in hexadecimal."""
    path = Path(source)
    if not path.is_dir():
        return sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in (".json", ".safetensors"))
    told = "".join(f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files)
    return hashlib.sha256(told.encode()).hexdigest()


def _asked(folder: Path, base: Base, task: Task, batch_size: int) -> SoftLabels:
    """The answers of an adapter."""
    adapter = load_adapter(folder, base)
    if adapter.reading is None:
        raise InputError(f"The adapter {folder} has no readout, so it gives no answers to learn from.")
    names = adapter.reading.label_set.labels
    _check_labels(names, task, str(folder))
    found = predict_examples(base, adapter, task.split("train").examples, batch_size=batch_size)
    order = [names.index(label) for label in task.labels]
    shares_NC = torch.from_numpy(found.scores_NC).double().softmax(1)[:, order]
    return dict(zip(found.ids, shares_NC.tolist(), strict=True))


def _read(file: Path, task: Task) -> SoftLabels:
    """The answers of a file."""
    known = {example.id for example in task.split("train")}
    found: dict[str, list[float]] = {}
    for place, name, scores in _lines(file):
        if name not in known:
            continue
        if name in found:
            raise DataError(f"{place} answers {name} again. Each row of train has one answer.")
        _check_labels(tuple(scores), task, place)
        found[name] = [scores[label] for label in task.labels]
    missing = sorted(known - set(found))
    if missing:
        raise InputError(
            f"{file} has no answer to {missing[0]} and {len(missing) - 1} others of the {len(known)} training examples. Its ids "
            "must be the numbers of the training file's rows, from 1: predict on the same file, without a column id."
            if len(missing) > 1
            else f"{file} has no answer to the training example {missing[0]}. Every one needs an answer."
        )
    return found


def _lines(file: Path) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    """Place, name of the example, and scores of each line."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as soft labels: {error}.") from None
    for number, line in enumerate(lines, start=1):
        place = f"{file}, line {number}"
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            told = None
        scores = told.get("scores") if isinstance(told, dict) else None
        name = told.get("id") if isinstance(told, dict) else None
        if not isinstance(scores, dict) or not isinstance(name, int | str) or not all(map(_is_number, scores.values())):
            raise DataError(f"{place} is no answer of a model. Write {_SHAPE}.")
        yield place, f"train/{int(name) - 1}" if str(name).isdecimal() else str(name), scores


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_labels(names: Sequence[str], task: Task, place: str) -> None:
    if set(names) != set(task.labels):
        raise InputError(f"{place} answers with {', '.join(names) or 'no labels'}; {task.name} has {', '.join(task.labels)}.")
