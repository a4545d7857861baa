"""`attach`: the one place that makes edits act.

Inside `with attach(base, adapters, rows)`, the plain transformers model behaves as adapted, in `forward` and in `generate`:
hooks act on states, an attention function puts keys and values before the sequence's own, parameters are swapped. No
module is replaced and no parameter renamed; on leaving, also by an exception, the base is bit for bit what it was.
"""

import inspect
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError, StateError
from lmtailor.edits.attention import restore, switch
from lmtailor.edits.checkpointing import CheckpointGuard
from lmtailor.edits.edits import Edits
from lmtailor.edits.engine import Engine, stations
from lmtailor.edits.entrance import Entrance, widen_cross_mask
from lmtailor.edits.groups import Rows
from lmtailor.edits.infix import AnswerBehindPrompt, answering
from lmtailor.edits.kinds import TokenPrompt
from lmtailor.edits.mixture import Members, MixedModel, by_member, log_shares, mixed_scores
from lmtailor.edits.prefixes import PrefixStore
from lmtailor.edits.products import FastProducts
from lmtailor.edits.weights import WeightSwap, swaps
from lmtailor.tasks.example import TEXT_KINDS


class BatchLike(Protocol):
    """What a readout's batch must offer to be read in parts."""

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """The trunk's arguments."""

    @property
    def answer_N(self) -> Tensor | None:
        """Where the answer of each sequence begins, as `Attached.answering` takes it; None where it is not in the input."""

    @property
    def units(self) -> Sequence[int]:
        """How many rows of scores each example has."""

    def rows(self, examples: Sequence[int]) -> Self:
        """The batch of some examples."""


class Reader(Protocol):
    """What an adapter's readout must offer to be read in a mixed batch."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks whose output it reads besides the last."""

    @property
    def virtual(self) -> bool:
        """Whether virtual tokens in front of the input are kept in the states it reads."""

    @property
    def kind(self) -> str:
        """Of the task: see `TaskKind`."""

    def prompt(self) -> tuple[int, ...]:
        """Token ids before every input."""

    def scores(self, base: Base, states: States, batch: Any, *, training: bool = False, normalised: bool = False) -> Tensor:
        """(B, C); with `normalised` log-probabilities, unless they are numbers."""


class Attachable(Protocol):
    """What can be attached: an adapter."""

    @property
    def edits(self) -> Edits:
        """What it changes."""

    @property
    def reading(self) -> Reader | None:
        """How it answers."""


_attached: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
_lock = threading.Lock()


class Attached:
    """Adapters on a base. Made by `attach`; a context manager."""

    def __init__(
        self, base: Base, adapters: Sequence[Attachable], rows: Sequence[int | None] | None, *, fast: bool = False
    ) -> None:
        self.base = base
        self.adapters = tuple(adapters)
        self._rows = Rows((0,), shared=True) if rows is None else Rows(tuple(rows))
        prompts = [() if adapter.reading is None else adapter.reading.prompt() for adapter in adapters]
        self._members = Members.among([adapter.edits for adapter in adapters])
        prompt_of = {part: ids for own, ids in zip(self._members.of, prompts, strict=True) for part in own}
        edits = tuple(_with_prompt(base, part, prompt_of[number]) for number, part in enumerate(self._members.parts))
        self.engine = Engine(base, edits, self._members.rows(self._rows), fast=fast)
        self._stations = stations(self.engine)
        self._stores = [PrefixStore(self.engine, stack) for stack in base.stacks]
        self._keep_virtual = any(adapter.reading is not None and adapter.reading.virtual for adapter in adapters)
        self._entrances = [
            Entrance(self.engine, stack, store, self._begin, keep_virtual=self._keep_virtual)
            for stack, store in zip(base.stacks, self._stores, strict=True)
        ]
        self._swaps: list[WeightSwap] = swaps(base.model, edits, self.engine.rows.slots)
        self._products = FastProducts(base.model, reading=fast) if not base.plain_products else None
        self._guard = CheckpointGuard(self.engine, base.model)
        self._handles: list[Any] = []
        self._switched: list[tuple[Any, str]] = []

    def __enter__(self) -> Self:
        """Attach.

        Raises:
            StateError: something is attached to this base already, here or in another thread.
        """
        with _lock:
            check_free(self.base)
            _attached.add(self.base.model)
        try:
            self._install()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Detach, whatever happened."""
        self._remove()

    def _install(self) -> None:
        self.engine.alive = True
        self._guard.install()
        if self._products is not None:
            self._products.install()
        if any(store.used for store in self._stores):
            self._switched = switch(self.base.model)
        for swap in self._swaps:
            swap.install()
        for entrance in self._entrances:
            self._handles += entrance.register()
        if any(entrance.has_infix for entrance in self._entrances) and isinstance(self.base.model, GenerationMixin):
            self._handles.append(AnswerBehindPrompt(self.engine, self.base.model))
        if any(len(own) > 1 for own in self._members.of) and self.base.has_lm_head:
            self._handles.append(MixedModel(self.engine, self.base.model))
        self._hook_cross_mask()
        for store in self._stores:
            self._handles += store.install()
        for station in self._stations:
            self._handles += station.register()

    def _hook_cross_mask(self) -> None:
        by_name = {entrance.stack.name: entrance for entrance in self._entrances}
        encoder, decoder = by_name.get("encoder"), by_name.get("decoder")
        if encoder is None or decoder is None or not any(encoder._prompts(slot) for slot in range(len(self.engine.adapters))):
            return
        names = list(inspect.signature(inspect.unwrap(type(decoder.root).forward)).parameters)[1:]

        def widen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
            return widen_cross_mask(encoder, args, kwargs, names)

        self._handles.append(decoder.root.register_forward_pre_hook(widen, with_kwargs=True))

    def _remove(self) -> None:
        self.engine.alive = False
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for store in self._stores:
            store.remove()
        for swap in self._swaps:
            swap.remove()
        restore(self._switched)
        self._switched = []
        if self._products is not None:
            self._products.remove()
        self._guard.remove()
        with _lock:
            _attached.discard(self.base.model)

    def _begin(self) -> None:
        """A pass through a stack begins."""
        for station in self._stations:
            station.reset()
        for swap in self._swaps:
            swap.install()

    def narrowed(self, slots: Sequence[int | None]) -> AbstractContextManager[None]:
        """For a while, the batch is rows of these adapters."""
        return self.engine.narrowed(self._members.rows(Rows(tuple(slots))))

    def answering(self, answer: Tensor | int | None) -> AbstractContextManager[None]:
        """For a while, answers begin at these tokens, for what stands between text and answer in causal decoders.

        Args:
            answer: the index of the answer's first token, one for all sequences or one for each (N,), -1 meaning behind the
                text. `generate` sets it to its prompt's length; where nothing is set, answers begin behind the text.
        """
        return answering(self.engine, answer)

    def states(self, inputs: Mapping[str, Tensor], answer: Tensor | None = None) -> States:
        """Run the trunk once and keep every block that some row's readout reads.

        Args:
            inputs: the trunk's arguments.
            answer: where the answers begin, as for `answering`.
        """
        layers = {layer for adapter in self.adapters if adapter.reading is not None for layer in adapter.reading.layers}
        with self.answering(answer):
            states = self.base.hidden(inputs, tuple(sorted(layers)))
        read = self._entrances[-1]
        states = replace(states, layers={layer: read.without_inserted(value) for layer, value in states.layers.items()})
        return by_member(states, self.engine.rows)

    def scores(self, slot: int, states: States, batch: BatchLike, *, training: bool = False) -> Tensor:
        """Scores (B, C) of a batch whose rows all belong to one adapter, from the states of those rows.

        Raises:
            InputError: the adapter has no readout.
        """
        reading, members, own = self._reader(slot), self._members.of[slot], self.own_states(slot, states)
        if len(members) == 1:
            with self.engine.narrowed(Rows((slot,))):
                return reading.scores(self.base, own, batch, training=training)
        each = []
        for member, ran in zip(members, (own, *own.others), strict=False):
            with self.engine.narrowed(Rows((member,))):
                each.append(reading.scores(self.base, ran, batch, training=training, normalised=True))
        shares_M = log_shares([self._members.parts[member] for member in members])
        return mixed_scores(each, shares_M, numbers=reading.kind == "regression")

    def read(self, batch: BatchLike) -> list[Tensor]:
        """Scores of every row from that row's own readout, (C,) each; C may differ between rows.

        Where an answer has several parts, tags of words or ends of a span, they have one row each: (units, C).

        Raises:
            InputError: a row has no adapter, or one without a readout.
        """
        slots = self._rows.slots
        for slot in slots:
            if self._reader(slot).kind == "generation":
                raise InputError("A row's readout writes text, which one pass does not give. Use `generate` or `predict`.")
        states = self.states(batch.inputs, batch.answer_N)
        if self._rows.shared:
            return self._by_row(0, states, batch)
        out: dict[int, Tensor] = {}
        for slot in dict.fromkeys(slots):
            assert slot is not None
            rows = [row for row, own in enumerate(slots) if own == slot]
            out.update(zip(rows, self._by_row(slot, states.select(rows, len(slots)), batch.rows(rows)), strict=True))
        return [out[row] for row in range(len(slots))]

    def _by_row(self, slot: int, states: States, batch: BatchLike) -> list[Tensor]:
        """The scores of each row of one adapter."""
        parts = torch.split(self.scores(slot, states, batch), list(batch.units))
        return list(parts) if self._reader(slot).kind in TEXT_KINDS else [part[0] for part in parts]

    def own_states(self, slot: int, states: States) -> States:
        """The states of one adapter's rows as its readout reads them: without the virtual tokens that it leaves out."""
        entrance = self._entrances[-1]
        drop = entrance.virtual - (entrance.width(slot) if self._reader(slot).virtual else 0)
        if not drop:
            return states
        # Blocks hold the virtual tokens always, the stack's output only where some readout wants them.
        cut = states.mapped(lambda value: value[:, drop:])
        if self._keep_virtual:
            return cut
        others = tuple(replace(new, last_NTH=old.last_NTH) for new, old in zip(cut.others, states.others, strict=True))
        return replace(cut, last_NTH=states.last_NTH, others=others)

    def _reader(self, slot: int | None) -> Reader:
        reading = None if slot is None else self.adapters[slot].reading
        if reading is None:
            what = "has no adapter" if slot is None else f"belongs to adapter {slot}, which has no readout"
            raise InputError(
                f"A row {what}, so there is nothing to read its answer with. Read only rows whose adapter has a readout."
            )
        return reading


def check_free(base: Base) -> None:
    """Refuse a base to which something is attached.

    Raises:
        StateError: something is.
    """
    if base.model in _attached:
        raise StateError(
            "Adapters are attached to this base already. Leave that `with attach(...)` first, or name all rows in one."
        )


def attach(
    base: Base, adapters: Attachable | Sequence[Attachable], rows: Sequence[int | None] | None = None, *, fast: bool = False
) -> Attached:
    """Make adapters act on a base for the length of a `with` block.

    Args:
        base: the base that the adapters were made for.
        adapters: one adapter for every row, or several with `rows`.
        rows: for each row of the batch, the index of its adapter, or None for the plain base. A row's result equals
            its solo run (relative 1e-5 in float32). Under `generate` with beams, rows are those before expansion; every row is
            written by the base's LM head under its own adapter's edits, and a `Head` of the adapter, which answers in `read`
            alone, has no part in it.
        fast: compute in the fastest order everywhere, as `fit`, `predict`, `score` and `generate` do. Otherwise texts that are
            read without gradients keep the products and the attention of the base itself, so that logits are to the bit what
            another program with the same ones gets; training and writing token by token are fast in any case. See
            `edits/products.py`, `edits/attention.py`.

    Returns:
        A context manager; inside, `base.model(...)`, `base.model.generate(...)` and `attached.read(batch)` are adapted.

    Raises:
        InputError: `rows` names an adapter that is not there, or is missing for several adapters.
        UnsupportedError: rows that cannot share a batch (full fine-tuning, another LM head), or an edit that this model cannot
            take.
        StateError: on entering, if something is attached already.
    """
    many = list(adapters) if isinstance(adapters, Sequence) else [adapters]
    if rows is None:
        if len(many) != 1:
            raise InputError(f"{len(many)} adapters need `rows`: for each row of the batch the index of its adapter, or None.")
        return Attached(base, many, None, fast=fast)
    for row, slot in enumerate(rows):
        if slot is not None and not 0 <= slot < len(many):
            raise InputError(
                f"rows[{row}] is {slot}, but there are {len(many)} adapters: write 0 to {len(many) - 1}, "
                "or None for the plain base."
            )
    if not rows:
        raise InputError("`rows` is empty: name one adapter (or None) for each row of the batch.")
    return Attached(base, many, rows, fast=fast)


def _with_prompt(base: Base, edits: Edits, ids: tuple[int, ...]) -> Edits:
    if not ids:
        return edits
    embed = next(site.name for site in base.sites.values() if site.kind == "embedding" and site.stack != "decoder")
    return Edits((*edits, TokenPrompt(site=embed, length=len(ids), ids=ids)))
