"""Text that a model writes behind prompts, under one adapter or several in the same batches.

causal             the prompt is continued; prompts are padded on the left, and what many begin with is run once
encoder-decoder    the encoder reads the prompt, the decoder writes

The model's own `generate` writes, under `attach`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack, cast

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import WeightEdit
from lmtailor.infer.choices import HasEdits, Likelihoods
from lmtailor.infer.decoding import Decoding, Settings, config_of, draws, end_tokens, without_defaults
from lmtailor.infer.run import Attaching, Led, groups_of
from lmtailor.infer.score import Progress, by_length
from lmtailor.infer.variants import beyond
from lmtailor.infer.written import Ending, Generated, Stream, Watch
from lmtailor.readouts.batch import Encoded
from lmtailor.readouts.prompts import first_tokens
from lmtailor.readouts.readout import input_form
from lmtailor.readouts.words import plain_ids
from lmtailor.store.adapter import Adapter, virtual_tokens


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text to write behind."""

    name: str
    """For messages, such as "prompt 3"."""
    number: int
    """Names its draws, and its text in a stream."""
    text: str


def generate(
    base: Base,
    adapters: HasEdits | Sequence[HasEdits] | None,
    prompts: Sequence[str],
    *,
    rows: Sequence[int | None] | None = None,
    batch_size: int = 16,
    stream: Stream | None = None,
    progress: Progress | None = None,
    **settings: Unpack[Settings],
) -> list[Generated]:
    """Write text behind prompts; greedy, unless beams or a temperature are asked for.

    A prompt's text does not depend on its batch: it is what the model's own `generate` writes for it alone (where logits are
    equal to rounding, either), and draws are of the prompt's own. For the checkpoint's own configuration see `decoding`.

    Args:
        base: a causal or an encoder-decoder model with LM head.
        adapters: one for all prompts, several with `rows`, or None for the plain base. A readout plays no part, but two
            heads of adapters' own in one call are refused: who asks two classifiers mostly wants their labels.
        prompts: the texts. The tokenizer's special tokens are put before them, and behind an encoder's.
        rows: for each prompt the index of its adapter, or None for the plain base. They share batches, unless an adapter
            replaces weights. Where one replaces the LM head, all rows must be its own.
        batch_size: prompts in a batch.
        stream: called with a prompt's number and the next piece of its text, as it comes; with beams, with each text whole.
        progress: called after every batch with the prompts done, and of how many.
        settings: those of `Decoding`: max_new_tokens=64, beams=1, length_penalty=1.0, temperature=0.0, top_k, top_p, seed=0, and
            stop, one string or several.

    Returns:
        One text a prompt, in their order.

    Raises:
        InputError: settings out of range, or that would be ignored; a prompt without a token, or that leaves no room for
            `max_new_tokens`; rows that do not fit.
        UnsupportedError: a masked model, or one without LM head; rows with different heads.
    """
    if isinstance(prompts, str):
        raise InputError("`prompts` is one text; give a list of texts.")
    given: dict[str, Any] = {**settings}
    stop = settings.get("stop", ())
    decoding = Decoding(**{**given, "stop": (stop,) if isinstance(stop, str) else tuple(stop)})
    named = [Prompt(name=f"prompt {number}", number=number, text=text) for number, text in enumerate(prompts)]
    many = [] if adapters is None else list(adapters) if isinstance(adapters, Sequence) else [adapters]
    return generate_prompts(
        base, many, named, rows=rows, decoding=decoding, batch_size=batch_size, stream=stream, progress=progress
    )


def generate_prompts(
    base: Base,
    adapters: Sequence[HasEdits],
    prompts: Sequence[Prompt],
    *,
    rows: Sequence[int | None] | None = None,
    decoding: Decoding,
    batch_size: int = 16,
    stream: Stream | None = None,
    progress: Progress | None = None,
) -> list[Generated]:
    """`generate`, of prompts that messages call by names of their own.

    Args:
        base: as for `generate`.
        adapters: none for the plain base; several with `rows`.
        prompts: each with a number of its own.
        rows: as for `generate`.
        decoding: how text is written.
        batch_size: as for `generate`.
        stream: as for `generate`.
        progress: as for `generate`.

    Raises:
        InputError, UnsupportedError: as `generate`.
    """
    if base.kind == "encoder" or not base.has_lm_head:
        name, why = base.source or base.family.name, "fills gaps" if base.kind == "encoder" else "has no LM head"
        raise UnsupportedError(f"{name} {why}, so it writes no text. Use a causal or an encoder-decoder model with LM head.")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; a batch has one prompt at least.")
    slots = _slots(len(adapters), len(prompts), rows)
    _check_one_head(base, adapters, slots)
    items = [
        _item(base, Edits() if slot is None else adapters[slot].edits, prompt, decoding)
        for slot, prompt in zip(slots, prompts, strict=True)
    ]
    writer = Writer(
        base=base,
        numbers=[prompt.number for prompt in prompts],
        decoding=decoding,
        ends=end_tokens(base),
        batch_size=batch_size,
        stream=stream,
    )
    return writer.write(adapters, slots, items, progress)


@dataclass(frozen=True, kw_only=True)
class Writer:
    """How text is written behind token ids."""

    base: Base
    numbers: Sequence[int]
    """Names the draws of each item, and its text in a stream."""
    decoding: Decoding
    ends: tuple[int, ...]
    """The tokens that end a text."""
    decoder: tuple[int, ...] | None = None
    """What a decoder is fed with before it writes; None is what the checkpoint says."""
    batch_size: int
    stream: Stream | None = None

    def write(
        self,
        adapters: Sequence[HasEdits],
        slots: Sequence[int | None],
        items: Sequence[Encoded],
        progress: Progress | None = None,
    ) -> list[Generated]:
        """One text an item, in their order.

        Args:
            adapters: what is attached.
            slots: for each item the index of its adapter, or None for the plain base.
            items: of one sequence each, which fit the model with what is to be written.
            progress: told after every batch.
        """
        apart = len(set(slots)) <= 1 or not all(adapter.edits.shares_batch for adapter in adapters)
        out: dict[int, Generated] = {}
        if not apart:
            self.together(adapters, slots, items, out, progress)
            return [out[i] for i in range(len(items))]
        for slot in dict.fromkeys(slots):
            own = [i for i, chosen in enumerate(slots) if chosen == slot]
            tell = None if progress is None else beyond(progress, len(out), len(items))
            self.alone(Edits() if slot is None else adapters[slot].edits, own, items, out, tell)
        return [out[i] for i in range(len(items))]

    def alone(
        self, edits: Edits, own: list[int], items: Sequence[Encoded], out: dict[int, Generated], progress: Progress | None
    ) -> None:
        """Items of one adapter; what many begin with is run once."""
        done = 0
        for group in groups_of(self.base, edits, [items[i] for i in own]):
            members = [own[i] for i in group.members]
            shared = items[members[0]].sequences[0][: group.length]
            led = Led(own=Likelihoods(form=input_form(self.base)), ids=shared)
            with torch.no_grad(), attach(self.base, Attaching(edits=edits, reading=led), fast=True):
                for chosen in by_length([items[i] for i in members], self.batch_size):
                    numbers = [members[i] for i in chosen]
                    ids = [items[i].sequences[0][group.length :] for i in numbers]
                    out.update(zip(numbers, self._batch(numbers, ids), strict=True))
                    done += len(numbers)
                    if progress is not None:
                        progress(done, len(own))

    def together(
        self,
        adapters: Sequence[HasEdits],
        slots: Sequence[int | None],
        items: Sequence[Encoded],
        out: dict[int, Generated],
        progress: Progress | None,
    ) -> None:
        """Items of several adapters, in the same batches."""
        led = Led(own=Likelihoods(form=input_form(self.base)), ids=())
        attaching = [Attaching(edits=adapter.edits, reading=led) for adapter in adapters]
        with torch.no_grad(), attach(self.base, attaching, slots, fast=True) as attached:
            for numbers in by_length(items, self.batch_size):
                with attached.narrowed([slots[i] for i in numbers]):
                    written = self._batch(numbers, [items[i].sequences[0] for i in numbers])
                out.update(zip(numbers, written, strict=True))
                if progress is not None:
                    progress(len(out), len(items))

    def _batch(self, chosen: Sequence[int], ids: Sequence[tuple[int, ...]]) -> list[Generated]:
        """Write behind some items, with what is attached."""
        base, numbers = self.base, [self.numbers[i] for i in chosen]
        causal = base.kind == "decoder"
        inputs = _padded(base, ids, left=causal)
        start = inputs["input_ids"].shape[1] if causal else len(self.decoder or (None,))
        if self.decoder is not None:
            inputs["decoder_input_ids"] = torch.tensor([self.decoder] * len(ids), device=base.device)
        ending = Ending(tokenizer=base.tokenizer, ends=self.ends, stop=self.decoding.stop)
        watch = Watch(ending, start, numbers, self.stream, live=self.decoding.beams == 1)
        write = cast(Callable[..., Tensor], base.model.generate)
        config = config_of(base, self.decoding, self.ends, self.decoder)
        with without_defaults(base):
            rows = write(
                **inputs,
                generation_config=config,
                logits_processor=draws(self.decoding, numbers),
                stopping_criteria=StoppingCriteriaList([watch]),
            )
        written = [ending.read(row) for row in rows[:, start:].tolist()]
        for number, one in zip(numbers, written, strict=True):
            watch.finish(number, one)
        return written


def _slots(adapters: int, prompts: int, rows: Sequence[int | None] | None) -> list[int | None]:
    """For each prompt the index of its adapter, or None.

    Raises:
        InputError: rows are missing or do not fit.
    """
    if rows is None:
        if adapters > 1:
            raise InputError(f"{adapters} adapters need `rows`: for each prompt the index of its adapter, or None.")
        return [0 if adapters else None] * prompts
    if len(rows) != prompts:
        raise InputError(f"There are {prompts} prompts and {len(rows)} rows; each prompt needs one.")
    for number, row in enumerate(rows):
        if row is not None and not 0 <= row < adapters:
            raise InputError(f"rows[{number}] is {row}, but there are {adapters} adapters. Write an index from 0, or None.")
    return list(rows)


def _check_one_head(base: Base, adapters: Sequence[HasEdits], slots: Sequence[int | None]) -> None:
    """One LM head writes.

    Raises:
        UnsupportedError: some rows' adapter replaces it, and others' does not or by another; or several have heads that answer
            without it.
    """
    head = base.sites.parameters("lm_head")
    tied = {path for path, own in base.model.named_parameters(remove_duplicate=False) if any(own is one for one in head.values())}
    used = dict.fromkeys(slots)
    for slot in used:
        edits = Edits() if slot is None else adapters[slot].edits
        replaced = next((edit.site for edit in edits if isinstance(edit, WeightEdit) and edit.site in tied), None)
        if replaced is not None and len(used) > 1:
            raise UnsupportedError(
                f"Adapter {slot} has an LM head of its own ({replaced}), which other rows lack; one head writes at a time. "
                "Call generate once for each such adapter. Adapters that train the head by a method such as LoRA(at='lm_head') "
                "share batches."
            )
    headed = [slot for slot in used if slot is not None and _has_head(adapters[slot])]
    if len(headed) > 1:
        raise UnsupportedError(
            f"Adapters {headed[0]} and {headed[1]} have heads of their own, which give labels or numbers and write nothing. Use "
            "predict for what they answer; for what the base's LM head writes under each, call generate once for each."
        )


def _has_head(adapter: HasEdits) -> bool:
    """Whether an adapter answers by a trained head of its own."""
    return isinstance(adapter, Adapter) and adapter.reading is not None and bool(adapter.reading.parameters())


def _item(base: Base, edits: Edits, prompt: Prompt, decoding: Decoding) -> Encoded:
    """A prompt as token ids.

    Raises:
        InputError: it is no text, has no token, or leaves no room for what is to be written.
    """
    if not isinstance(prompt.text, str):
        raise InputError(f"Prompts are texts; {prompt.name} is {type(prompt.text).__name__}.")
    causal, tokenizer = base.kind == "decoder", base.tokenizer
    if causal:
        ids = first_tokens(tokenizer) + plain_ids(tokenizer, prompt.text)
    else:
        ids = tuple(tokenizer(prompt.text, return_attention_mask=False, verbose=False)["input_ids"])
    upper = prompt.name[0].upper() + prompt.name[1:]
    if not ids:
        raise InputError(f"{upper} is empty, and the model begins with no token of its own. Give it a text.")
    virtual, new, room = virtual_tokens(edits), decoding.max_new_tokens, base.max_length
    before = f"{len(ids)} tokens" + (f" and {virtual} virtual ones" if virtual else "")
    if len(ids) + virtual + (new if causal else 0) > room:
        more, less = (f", to which max_new_tokens adds {new}", ", or ask for less") if causal else ("", "")
        raise InputError(f"{upper} has {before}{more}; the model takes {room}. Shorten it{less}.")
    check_decoder_room(base, edits, new)
    return Encoded(sequences=(ids,), read=((len(ids) - 1,),), id=prompt.name)


def check_decoder_room(base: Base, edits: Edits, new: int, decoder: tuple[int, ...] | None = None) -> None:
    """See that the decoder of an encoder-decoder has positions for so many new tokens; see `Writer.decoder`.

    Raises:
        InputError: it has not.
    """
    limit, virtual = base.read.max_positions, virtual_tokens(edits) + len(decoder or (None,)) - 1
    if base.kind == "encoder-decoder" and limit is not None and virtual + new > limit:
        raise InputError(f"max_new_tokens is {new}, but the decoder has {limit - virtual} positions. Ask for less.")


def _padded(base: Base, ids: Sequence[tuple[int, ...]], *, left: bool) -> dict[str, Any]:
    """Prompts as a batch: ids and attention mask (B, T)."""
    pad, longest = input_form(base).pad_id, max(map(len, ids))
    rows, masks = [], []
    for own in ids:
        missing = longest - len(own)
        padding, hidden = [pad] * missing, [0] * missing
        rows.append([*padding, *own] if left else [*own, *padding])
        masks.append([*hidden, *[1] * len(own)] if left else [*[1] * len(own), *hidden])
    return {
        "input_ids": torch.tensor(rows, device=base.device),
        "attention_mask": torch.tensor(masks, device=base.device),
    }
