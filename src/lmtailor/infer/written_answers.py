"""Answers that adapters write: `Text` readouts, of one adapter or of several in the same batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.infer.decoding import Decoding, end_tokens
from lmtailor.infer.generate import Writer, check_decoder_room
from lmtailor.infer.score import Progress
from lmtailor.infer.written import Generated, Stream
from lmtailor.readouts.text import TextReading
from lmtailor.store.adapter import Adapter
from lmtailor.tasks.example import Example


@dataclass(frozen=True, kw_only=True)
class WrittenAnswer:
    """What was written to one example."""

    text: str
    """Without space around it."""
    written: Generated
    """The same as it was written: with its tokens, and why it ended."""
    cut: int
    """Tokens of the input that were cut off to fit the model with what is written."""


def write_answers(  # noqa: PLR0913 - every argument is a choice of its own
    base: Base,
    adapters: Sequence[Adapter],
    examples: Sequence[Example],
    *,
    slots: Sequence[int],
    decoding: Decoding | None = None,
    batch_size: int = 32,
    numbers: Sequence[int] | None = None,
    stream: Stream | None = None,
    progress: Progress | None = None,
) -> list[WrittenAnswer]:
    """Let adapters answer examples.

    Args:
        base: the model.
        adapters: their readouts are all `Text`.
        examples: what to answer.
        slots: for each example the index of its adapter.
        decoding: how text is written; None: see `unasked`.
        batch_size: examples in a batch.
        numbers: of the examples, which name their draws and their texts in the stream; None: counted from 0.
        stream: called with an example's number and the next piece of its text, as it comes.
        progress: told after every batch.

    Raises:
        InputError: an adapter that does not write, adapters whose texts end with different tokens, or have different room where
            nobody says how much, or no room for `max_new_tokens` behind an input or in a decoder.
    """
    readings = [_reading(i, adapter) for i, adapter in enumerate(adapters)]
    ends = {reading.end for reading in readings}
    if len(ends) > 1:
        raise InputError(
            "The adapters end their texts with different tokens (one is of a chat, one is not), and a batch has one "
            "rule. Ask them apart."
        )
    how, *others = dict.fromkeys(map(unasked, readings)) if decoding is None else [decoding]
    if others:
        found = sorted({one.max_new_tokens for one in (how, *others)})
        raise InputError(
            f"The adapters write {found} tokens at most where nobody says how many, and a batch has one rule. Say "
            "max_new_tokens, or ask them apart."
        )
    (decoder,) = {reading.pieces.decoder for reading in readings}  # the base's own: that which all were fitted with
    for adapter in adapters:
        check_decoder_room(base, adapter.edits, how.max_new_tokens, decoder)
    room = how.max_new_tokens if base.kind == "decoder" else 0
    items = [readings[slot].input(example, room) for slot, example in zip(slots, examples, strict=True)]
    writer = Writer(
        base=base,
        numbers=range(len(items)) if numbers is None else numbers,
        decoding=how,
        ends=tuple(dict.fromkeys((*ends, *end_tokens(base)))),
        decoder=decoder,
        batch_size=batch_size,
        stream=stream,
    )
    written = writer.write(adapters, slots, items, progress)
    return [WrittenAnswer(text=one.text.strip(), written=one, cut=item.cut) for one, item in zip(written, items, strict=True)]


def unasked(reading: TextReading) -> Decoding:
    """How an adapter writes where nobody says: greedily, and 64 tokens at most.

    Less if its readout takes less: half of what it takes where the input is in it too.
    """
    limit, decoder, usual = reading.pieces.limit, reading.pieces.decoder, Decoding()
    room = limit // 2 if decoder is None else limit - len(decoder) + 1
    return replace(usual, max_new_tokens=max(1, min(usual.max_new_tokens, room)))


def refuse_decoding(decoding: Decoding | None) -> None:
    """See that nobody says how to write where nothing is written.

    Raises:
        InputError: somebody does.
    """
    if decoding is not None:
        raise InputError("`decoding` says how text is written, and this readout writes none. Leave it out.")


def _reading(number: int, adapter: Adapter) -> TextReading:
    if not isinstance(adapter.reading, TextReading):
        raise InputError(f"Adapter {number} chooses among labels or gives numbers, and another one writes. Ask them apart.")
    return adapter.reading
