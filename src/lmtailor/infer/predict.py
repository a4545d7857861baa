"""Predictions for raw inputs, of one adapter or of a mixture in the same batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.edits.attach import attach
from lmtailor.infer.decoding import Decoding
from lmtailor.infer.score import Progress, by_length
from lmtailor.infer.shared import score_together
from lmtailor.infer.unmask import score_encoded, takes_passes
from lmtailor.infer.variants import averaged, beyond
from lmtailor.infer.written_answers import refuse_decoding, write_answers
from lmtailor.readouts.batch import Encoded, by_item
from lmtailor.readouts.inquiry import Inquires, Inquiry
from lmtailor.readouts.readout import Reading
from lmtailor.readouts.text import TextReading
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
    text: str | None = None
    """Generation: what was written. Span: the part of the text."""
    tags: tuple[str, ...] = ()
    """Labelling: the tag of each word."""
    start: int | None = None
    """Span: the character of its column at which the text begins; None where no answer was found."""
    cut: int = 0
    """Tokens of the input that were cut off to fit the model."""


def predict(
    base: Base,
    adapters: Adapter | Sequence[Adapter],
    inputs: Sequence[RawInput],
    *,
    rows: Sequence[int] | None = None,
    batch_size: int = 32,
    decoding: Decoding | None = None,
    first: int = 0,
    progress: Progress | None = None,
) -> list[Answer]:
    """Answers in the order of the inputs.

    Args:
        base: the model.
        adapters: one, or several with `rows`.
        inputs: texts; pairs as tuples; or mappings by column.
        rows: for each input the index of its adapter. Inputs of different adapters share batches.
        batch_size: inputs in a batch.
        decoding: how text is written, where the adapters write; None: greedily, 64 tokens at most, or as its length allows.
        first: number of the first input; what is drawn for an input depends on its number, so whoever asks in parts counts on.
        progress: called with what is done and of how many: inputs, or each window or prompt that is run for one.

    Raises:
        InputError: an input that lacks a text, an adapter without a readout, rows that do not fit, adapters of which some write
            and some do not, or `decoding` where none does.
    """
    many = list(adapters) if isinstance(adapters, Sequence) else [adapters]
    slots = _slots(many, inputs, rows)
    readings = [_reading(i, adapter) for i, adapter in enumerate(many)]
    examples = [as_example(raw, readings[slot], i) for i, (slot, raw) in enumerate(zip(slots, inputs, strict=True))]
    if any(isinstance(reading, TextReading) for reading in readings):
        at = range(first, first + len(examples))
        written = write_answers(
            base, many, examples, slots=slots, decoding=decoding, batch_size=batch_size, numbers=at, progress=progress
        )
        return [Answer(label=None, value=None, scores={}, text=one.text, cut=one.cut) for one in written]
    refuse_decoding(decoding)
    inquiries = [_inquiry(readings[slot], example) for slot, example in zip(slots, examples, strict=True)]
    # A readout with several prompts is several adapters, and each of its inputs a row of each of them.
    variants = [(slot, one) for slot, reading in enumerate(readings) for one in reading.variants()]
    asked = _asked(variants, slots, examples, inquiries)
    items = [row.item for row in asked]
    apart = len(set(slots)) <= 1 or any(takes_passes(own) for own in readings) or not all(own.edits.shares_batch for own in many)
    scores = (_apart if apart else _together)(
        base,
        [replace(many[slot], reading=one) for slot, one in variants],
        [one for _, one in variants],
        [row.variant for row in asked],
        items,
        batch_size,
        progress,
    )
    rows_of: list[list[int]] = [[] for _ in inputs]
    for number, row in enumerate(asked):
        rows_of[row.input].append(number)
    return [
        _answer(readings[slots[i]], inquiries[i], [scores[number] for number in own], cut=items[own[0]].cut)
        for i, own in enumerate(rows_of)
    ]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One of the things that are run for an input."""

    input: int
    variant: int
    """The reading that scores it, by its number among the variants of all."""
    item: Encoded


def _asked(
    variants: Sequence[tuple[int, Reading]],
    slots: Sequence[int],
    examples: Sequence[Example],
    inquiries: Sequence[Inquiry | None],
) -> list[_Asked]:
    """What is run for all inputs: for each variant of its reading the input, or windows of it."""
    numbers: dict[int, list[int]] = {}
    for number, (slot, _) in enumerate(variants):
        numbers.setdefault(slot, []).append(number)
    return [
        _Asked(input=i, variant=number, item=item)
        for i, (slot, inquiry) in enumerate(zip(slots, inquiries, strict=True))
        for number in numbers[slot]
        for item in ((variants[number][1].encode(examples[i]),) if inquiry is None else inquiry.items)
    ]


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


def _inquiry(reading: Reading, example: Example) -> Inquiry | None:
    """How an example is answered, where the answer is a text that one pass gives."""
    return reading.inquiry(example) if isinstance(reading, Inquires) else None


def _answer(reading: Reading, inquiry: Inquiry | None, scores: Sequence[Tensor], *, cut: int) -> Answer:
    """Scores (units, C) of what was run for one input as an answer."""
    if inquiry is not None:
        found = inquiry.finding(scores)
        text = None if reading.kind == "labelling" else found.text
        return Answer(label=None, value=None, scores={}, text=text, tags=found.tags, start=found.start, cut=cut)
    scores_C = averaged([rows[0] for rows in scores])
    if reading.kind == "regression":
        return Answer(label=None, value=float(scores_C[0]), scores={}, cut=cut)
    shares = torch.softmax(scores_C.float(), 0).tolist()
    best = max(range(len(shares)), key=shares.__getitem__)
    return Answer(label=reading.labels[best], value=None, scores=dict(zip(reading.labels, shares, strict=True)), cut=cut)


def _apart(
    base: Base,
    adapters: Sequence[Adapter],
    readings: Sequence[Reading],
    slots: Sequence[int],
    items: Sequence[Encoded],
    batch_size: int,
    progress: Progress | None,
) -> list[Tensor]:
    """Scores (units, C) of each input, adapter by adapter."""
    out: dict[int, Tensor] = {}
    for slot in dict.fromkeys(slots):
        own = [i for i, chosen in enumerate(slots) if chosen == slot]
        tell = None if progress is None else beyond(progress, len(out), len(items))
        edits, chosen_items = adapters[slot].edits, [items[i] for i in own]
        scores = score_encoded(base, edits, readings[slot], chosen_items, batch_size=batch_size, progress=tell)
        out.update(zip(own, scores, strict=True))
    return [out[i] for i in range(len(items))]


def _together(
    base: Base,
    adapters: Sequence[Adapter],
    readings: Sequence[Reading],
    slots: Sequence[int],
    items: Sequence[Encoded],
    batch_size: int,
    progress: Progress | None,
) -> list[Tensor]:
    """Scores (units, C) of each input, in batches of all adapters."""
    out: dict[int, Tensor] = {}
    with torch.no_grad(), attach(base, adapters, slots, fast=True) as attached:
        for chunk in by_length(items, batch_size):
            groups = {slot: [i for i in chunk if slots[i] == slot] for slot in dict.fromkeys(slots[i] for i in chunk)}
            batches = [readings[slot].collate([items[i] for i in own]).to(base.device) for slot, own in groups.items()]
            scored = score_together(attached, list(groups), batches, readings[slots[chunk[0]]].form)
            for own, (scores, _) in zip(groups.values(), scored, strict=True):
                out.update(zip(own, by_item(scores.float().cpu(), [items[i] for i in own]), strict=True))
            if progress is not None:
                progress(len(out), len(items))
    return [out[i] for i in range(len(items))]


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
