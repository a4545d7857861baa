"""One pass for a batch: what several sequences of an example share is run once.

In causal models the sequences of an example are packed as a tree; in encoder-decoders they share one encoding. Readouts see
the states of the plain batch.

Shapes: N sequences, T tokens, H features.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from lmtailor.base.states import States
from lmtailor.edits.attach import Attached
from lmtailor.infer.packing import pack, pack_groups, packs
from lmtailor.store.adapter import virtual_tokens


def states_of(
    attached: Attached,
    inputs: Mapping[str, Tensor],
    sizes: Sequence[int],
    *,
    slots: Sequence[int] | None = None,
    answer_N: Tensor | None = None,
) -> States:
    """The states of a batch's sequences (N, T, H), as `Attached.states` gives them.

    Args:
        attached: with the adapters.
        inputs: the trunk's arguments.
        sizes: how many sequences, one after the other, each example has.
        slots: the adapter of each example; None where one serves all rows.
        answer_N: where answers begin.
    """
    several = max(sizes) > 1 and not torch.is_grad_enabled()
    if several and _packs(attached, inputs["input_ids"].shape[1]):
        packed = pack(inputs, sizes, attached.base.dtype)
        if packed is not None:
            with _rows(attached, slots):
                return packed.spread(attached.states(packed.inputs))
    if several and _one_encoding(attached, inputs, sizes):
        with _rows(attached, slots):
            return _encoded_once(attached, inputs, sizes[0])
    repeated = None if slots is None else [slot for slot, size in zip(slots, sizes, strict=True) for _ in range(size)]
    with _rows(attached, repeated):
        return attached.states(inputs, answer_N)


def shared_states(
    attached: Attached,
    inputs: Mapping[str, Tensor],
    groups: Sequence[Hashable],
    *,
    lower_NTH: Tensor | None = None,
    playing: Callable[[Tensor], AbstractContextManager[None]] | None = None,
) -> States:
    """The states of a batch's sequences (N, T, H), with gradient, equal beginnings run once where that costs less.

    Of encoder-decoders each encoder input runs once. Only where `packs` is true, or the base has an encoder and a decoder.

    Args:
        attached: with one adapter for all rows.
        inputs: the trunk's arguments.
        groups: of each sequence: those of one group begin alike.
        lower_NTH: states above blocks that need not run.
        playing: plays such states back while the pass runs.
    """

    def played(change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        return nullcontext() if lower_NTH is None or playing is None else playing(change(lower_NTH))

    if attached.base.kind == "encoder-decoder":
        first, which = _distinct(inputs)
        with played(lambda lower: lower[first]):
            return _encoded(attached, inputs, first, which)
    packed = pack_groups(inputs, groups, attached.base.hidden_size, attached.base.dtype)
    if packed is None:
        with played(lambda lower: lower):
            return attached.states(inputs)
    with played(packed.gathered):
        return packed.spread(attached.states(packed.inputs))


def _distinct(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The first sequence of each encoder input, and for each sequence the number of its own."""
    ids_NT, mask_NT = inputs["input_ids"], inputs["attention_mask"]
    number: dict[tuple[int, ...], int] = {}
    first: list[int] = []
    which: list[int] = []
    for i, (ids, length) in enumerate(zip(ids_NT.tolist(), mask_NT.sum(1).tolist(), strict=True)):
        key = tuple(ids[:length])
        if key not in number:
            number[key] = len(first)
            first.append(i)
        which.append(number[key])
    return torch.tensor(first, device=ids_NT.device), torch.tensor(which, device=ids_NT.device)


def _rows(attached: Attached, slots: Sequence[int] | None) -> AbstractContextManager[None]:
    return nullcontext() if slots is None else attached.narrowed(slots)


def _packs(attached: Attached, tokens: int) -> bool:
    """Whether sequences of so many tokens may be packed under every adapter."""
    prompts = [() if adapter.reading is None else adapter.reading.prompt() for adapter in attached.adapters]
    return all(
        packs(attached.base, adapter.edits, virtual_tokens(adapter.edits) + len(prompt) + tokens)
        for adapter, prompt in zip(attached.adapters, prompts, strict=True)
    )


def _one_encoding(attached: Attached, inputs: Mapping[str, Tensor], sizes: Sequence[int]) -> bool:
    """Whether the encoder sees the same in all sequences of an example."""
    if attached.base.kind != "encoder-decoder" or len(set(sizes)) > 1 or any(one.edits.mixed for one in attached.adapters):
        return False
    return all(bool((value == value[:: sizes[0]].repeat_interleave(sizes[0], 0)).all()) for value in _encoder(inputs).values())


def _encoder(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in inputs.items() if not name.startswith("decoder_")}


def _encoded_once(attached: Attached, inputs: Mapping[str, Tensor], size: int) -> States:
    """Run the encoder on the first sequence of each example, and the decoder on all."""
    ids_NT = inputs["input_ids"]
    every = torch.arange(len(ids_NT), device=ids_NT.device)
    return _encoded(attached, inputs, every[::size], every // size)


def _encoded(attached: Attached, inputs: Mapping[str, Tensor], first: Tensor, which: Tensor) -> States:
    """Run the encoder on some sequences, and the decoder on all: `which` says whose encoding each reads."""
    base = attached.base
    encoder = base.module(base.stacks[0].root)
    encoded = encoder(**{name: value[first] for name, value in _encoder(inputs).items()})
    shared = BaseModelOutput(last_hidden_state=encoded.last_hidden_state.index_select(0, which))
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    return attached.states({**rest, "encoder_outputs": shared})  # type: ignore[dict-item]
