"""Predictions for raw inputs, of one adapter or of a mixture in the same batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.edits.attach import attach
from lmtailor.infer.score import Progress
from lmtailor.infer.shared import score_together
from lmtailor.readouts.batch import Encoded
from lmtailor.readouts.readout import Reading
from lmtailor.store.adapter import Adapter
from lmtailor.tasks.example import Example

RawInput = str | Sequence[str] | Mapping[str, str]
"""A text; the texts of a pair; or texts by column."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answers to one input."""

    label: str | None
    """Classification: the label with the highest score."""
    value: float | None
    """Regression: the predicted value."""
    scores: Mapping[str, float]
    """Classification: label → probability, the softmax of the scores."""
    cut: int = 0
    """Tokens of the input that were cut off to fit the model."""


def predict(
    base: Base,
    adapters: Adapter | Sequence[Adapter],
    inputs: Sequence[RawInput],
    *,
    rows: Sequence[int] | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> list[Answer]:
    """Answers in the order of the inputs.

    Args:
        base: the model.
        adapters: one, or several with `rows`.
        inputs: texts; pairs as tuples; or mappings by column.
        rows: for each input the index of its adapter. Inputs of different adapters share batches.
        batch_size: inputs in a batch.
        progress: called with inputs done and of how many.

    Raises:
        InputError: an input that lacks a text, an adapter without a readout, rows that do not fit.
    """
    many = list(adapters) if isinstance(adapters, Sequence) else [adapters]
    slots = _slots(many, inputs, rows)
    readings = [_reading(i, adapter) for i, adapter in enumerate(many)]
    items = [
        readings[slot].encode(as_example(raw, readings[slot], i)) for i, (slot, raw) in enumerate(zip(slots, inputs, strict=True))
    ]
    whole = not all(adapter.edits.shares_batch for adapter in many)
    order = sorted(range(len(items)), key=lambda i: (slots[i] if whole else 0, -items[i].length, i))
    answers: dict[int, Answer] = {}
    for chunk in _chunks(order, slots, batch_size, split=whole):
        scores = _scores(base, many, readings, [slots[i] for i in chunk], [items[i] for i in chunk])
        answers.update((i, answer(readings[slots[i]], row, cut=items[i].cut)) for i, row in zip(chunk, scores, strict=True))
        if progress is not None:
            progress(len(answers), len(items))
    return [answers[i] for i in range(len(items))]


def as_example(raw: RawInput, reading: Reading, number: int) -> Example:
    """A raw input as an example of the reading's columns.

    Raises:
        InputError: it does not have as many texts as the adapter reads, or lacks a column.
    """
    columns = reading.label_set.texts
    if isinstance(raw, Mapping):
        fields = dict(raw)
    else:
        texts = (raw,) if isinstance(raw, str) else tuple(raw)
        if len(texts) != len(columns):
            raise InputError(f"Input {number} has {len(texts)} texts; the adapter reads {len(columns)}: {', '.join(columns)}.")
        fields = dict(zip(columns, texts, strict=True))
    for name, text in fields.items():
        if not isinstance(text, str):
            raise InputError(f"Input {number} has {type(text).__name__} in {name!r}; texts must be strings.")
    return Example(id=f"input/{number}", fields=fields)


def answer(reading: Reading, scores_C: Tensor, *, cut: int = 0) -> Answer:
    """One row of scores as an answer."""
    if reading.kind == "regression":
        return Answer(label=None, value=float(scores_C[0]), scores={}, cut=cut)
    shares = torch.softmax(scores_C.float(), 0).tolist()
    best = max(range(len(shares)), key=shares.__getitem__)
    return Answer(label=reading.labels[best], value=None, scores=dict(zip(reading.labels, shares, strict=True)), cut=cut)


def _scores(base: Base, adapters: list[Adapter], readings: list[Reading], slots: list[int], items: list[Encoded]) -> list[Tensor]:
    """Scores of one batch, row by row, in the order of `items`."""
    groups = {slot: [i for i, own in enumerate(slots) if own == slot] for slot in dict.fromkeys(slots)}
    batches = [readings[slot].collate([items[i] for i in members]).to(base.device) for slot, members in groups.items()]
    chosen = [adapters[slot] for slot in groups]
    with torch.no_grad(), attach(base, chosen, range(len(chosen))) as attached:
        scored = score_together(attached, range(len(chosen)), batches, readings[slots[0]].form)
    out: dict[int, Tensor] = {}
    for members, (scores, _) in zip(groups.values(), scored, strict=True):
        out.update(zip(members, scores.float().cpu(), strict=True))
    return [out[i] for i in range(len(items))]


def _chunks(order: list[int], slots: list[int], size: int, *, split: bool) -> list[list[int]]:
    """Batches in this order; if adapters cannot share one, each batch has one adapter."""
    chunks: list[list[int]] = []
    for i in order:
        if not chunks or len(chunks[-1]) == size or (split and slots[chunks[-1][0]] != slots[i]):
            chunks.append([])
        chunks[-1].append(i)
    return chunks


def _slots(adapters: list[Adapter], inputs: Sequence[RawInput], rows: Sequence[int] | None) -> list[int]:
    if isinstance(inputs, str):
        raise InputError("`inputs` is one string; give a list of inputs.")
    if rows is None:
        if len(adapters) != 1:
            raise InputError(f"{len(adapters)} adapters need `rows`: for each input the index of its adapter.")
        return [0] * len(inputs)
    if len(rows) != len(inputs):
        raise InputError(f"There are {len(inputs)} inputs and {len(rows)} rows; each input needs one.")
    for i, row in enumerate(rows):
        if not 0 <= row < len(adapters):
            raise InputError(f"rows[{i}] is {row}, but there are {len(adapters)} adapters: write 0 to {len(adapters) - 1}.")
    return list(rows)


def _reading(index: int, adapter: Adapter) -> Reading:
    if adapter.reading is None:
        raise InputError(f"Adapter {index} has no readout, so it gives no answers.")
    return adapter.reading
