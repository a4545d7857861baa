"""Running encoded examples under one adapter: equal beginnings once, then batches, the longest first.

In causal models the beginnings that are better shared (`prefix_groups`) are attached as prompts, whose keys and values are
computed once. A beginning ends before the first state that is read, so a readout finds all it reads in the batch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.edits.attach import Reader, attach
from lmtailor.edits.edits import Edits
from lmtailor.infer.packing import by_position
from lmtailor.infer.passes import states_of
from lmtailor.infer.prefix_groups import PrefixGroup, prefix_groups, shared_length
from lmtailor.readouts.batch import Batch, Encoded

Divide = Callable[[Sequence[Encoded]], Iterable[list[int]]]
"""From examples to batches of their numbers."""


class Collating(Reader, Protocol):
    """What is needed of a readout."""

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Encoded examples as one batch."""


@dataclass(frozen=True, kw_only=True)
class Led:
    """A readout before whose prompt's end more tokens stand."""

    own: Collating
    ids: tuple[int, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        """Its own."""
        return self.own.layers

    @property
    def virtual(self) -> bool:
        """Its own."""
        return self.own.virtual

    @property
    def kind(self) -> str:
        """Its own."""
        return self.own.kind

    def prompt(self) -> tuple[int, ...]:
        """Its own prompt, and the shared tokens."""
        return (*self.own.prompt(), *self.ids)

    def scores(self, base: Base, states: States, batch: Any, *, training: bool = False, normalised: bool = False) -> Tensor:
        """Its own."""
        return self.own.scores(base, states, batch, training=training, normalised=normalised)


@dataclass(frozen=True, kw_only=True)
class Attaching:
    """What is attached for a group of examples."""

    edits: Edits
    reading: Led


def run(
    base: Base,
    edits: Edits,
    reading: Collating,
    items: Sequence[Encoded],
    divide: Divide,
    keep: Callable[[list[int], Tensor], None],
) -> None:
    """Run examples, without gradient.

    Args:
        base: the model.
        edits: of the adapter.
        reading: how it is read.
        items: the examples.
        divide: makes batches.
        keep: told after every batch the numbers of its examples, and their scores (B, …) as float32 on the CPU.
    """
    for group in groups_of(base, edits, items):
        own = [_without(items[i], group.length) for i in group.members]
        led = Led(own=reading, ids=items[group.members[0]].sequences[0][: group.length])
        with torch.no_grad(), attach(base, Attaching(edits=edits, reading=led), fast=True) as attached:
            for chosen in divide(own):
                batch = reading.collate([own[i] for i in chosen]).to(base.device)
                sizes = [batch.per_row] * batch.size
                states = states_of(attached, batch.inputs, sizes, answer_N=batch.answer_N)
                keep([group.members[i] for i in chosen], attached.scores(0, states, batch).float().cpu())


def groups_of(base: Base, edits: Edits, items: Sequence[Encoded]) -> list[PrefixGroup]:
    """The examples in groups with a beginning each; one group with none where beginnings cannot be shared."""
    if not by_position(base, edits):
        return [PrefixGroup(length=0, members=tuple(range(len(items))))] if items else []
    return prefix_groups([_beginning(item) for item in items])


def _beginning(item: Encoded) -> tuple[int, ...]:
    """As much of an example as may be shared: what all its sequences begin with, up to the first state that is read."""
    first, *others = item.sequences
    length = min((min(read, default=0) for read in item.read), default=0)
    for other in others:
        length = min(length, shared_length(first[:length], other))
    return first[:length]


def _without(item: Encoded, length: int) -> Encoded:
    """An example without its first tokens."""
    if not length:
        return item
    sequences = tuple(sequence[length:] for sequence in item.sequences)
    return replace(item, sequences=sequences, read=tuple(tuple(i - length for i in read) for read in item.read))
