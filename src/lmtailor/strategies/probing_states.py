"""The states that probes read: every item at every layer, of one forward of the frozen base; on disk beyond a bound of memory.

Shapes: L layers (the embeddings, then each block), N items, B items of a batch, H features, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.depths import depths
from lmtailor.fit.cache import StateCache
from lmtailor.infer.score import Progress, by_length
from lmtailor.readouts.batch import Batch, Encoded, collate
from lmtailor.readouts.head import Head, HeadReading
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.pooling import pool
from lmtailor.readouts.readout import read_states
from lmtailor.readouts.tagging import Tags, TagsReading, mean_states
from lmtailor.strategies.probing_settings import Probing
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task

_SAMPLE = 2048
"""The most items whose features say what is usual."""
_QUANTILES = (0.1587, 0.5, 0.8413)
"""Of a normal distribution one deviation below the mean, the mean, and one above."""

_TOLD = {
    "cls": "its first token",
    "first": "its first token",
    "last": "its last token",
    "mean": "the mean of its tokens",
}
_REASONS = {
    "first": f"{_TOLD['first']}: all tokens see the whole text",
    "last": f"{_TOLD['last']}: it alone has seen all of it",
    "mean": f"{_TOLD['mean']}: all see the whole text",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """What is read of a word or a text."""

    reading: TagsReading | HeadReading
    """Encodes examples; its own layer is not used."""
    how: str
    """first, last, mean or cls."""
    told: str
    """For people."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """Examples as they are run, and which of their items are read."""

    encoded: tuple[Encoded, ...]
    items: tuple[tuple[int, ...], ...]
    """Of each example the items that are read, counted within it: a word may be cut off, or be no token."""

    @property
    def counts(self) -> list[int]:
        """Items that are read, of each example."""
        return [len(one) for one in self.items]

    @property
    def cut(self) -> int:
        """Examples that lost their end."""
        return sum(one.cut > 0 for one in self.encoded)


class LayerStates:
    """See `probing_fit.States`."""

    def __init__(self, cache: StateCache, layers: int, features: int) -> None:
        self._cache, self._shape = cache, (layers, features)
        self._middle_LH, self._scale_LH = torch.zeros(self._shape), torch.ones(self._shape)
        self._clip: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """L and H."""
        return self._shape

    @property
    def spilled(self) -> int:
        """Bytes on disk."""
        return self._cache.spilled

    def batch(self, items: Tensor) -> Tensor:
        """States (L, B, H) of items by number (B,), float32."""
        states_BLH = self._cache.rows(items).view(len(items), *self._shape).float()
        states_BLH = (states_BLH - self._middle_LH) / self._scale_LH
        if self._clip is not None:
            states_BLH = states_BLH.clamp(-self._clip, self._clip)
        return states_BLH.transpose(0, 1)

    def standardised(self, items: Tensor, clip: float | None) -> Self:
        """Give each feature of each layer median 0 and spread 1 over these items, and cut it.

        Args:
            items: by number; of many a sample, evenly spaced.
            clip: where features are cut; None: nowhere.
        """
        places = torch.linspace(0, len(items) - 1, min(len(items), _SAMPLE)).round().long()
        for layer, states_BH in enumerate(self.batch(items[places])):
            low_H, self._middle_LH[layer], high_H = torch.quantile(states_BH, torch.tensor(_QUANTILES), dim=0)
            spread_H = (high_H - low_H) / 2
            self._scale_LH[layer] = torch.where(spread_H > 1e-6 * self._middle_LH[layer].abs(), spread_H, 1.0)
        self._clip = clip
        return self


def layer_names(base: Base) -> tuple[str, ...]:
    """0 for the embeddings, then each block by its number from 1."""
    return tuple(str(number) for number in range(len(base.stacks[0].blocks) + 1))


def place(base: Base, task: Task, settings: Probing) -> Place:
    """What is read of a base for a task.

    In encoder-decoders the encoder is read, whose tokens see the whole text, as those of encoders.

    Raises:
        InputError, UnsupportedError: see `Tags.bind` and `Head.bind`.
    """
    whole, labels = base.kind != "decoder", LabelSet.of(task)
    if task.kind == "labelling":
        piece = ("first" if whole else "last") if settings.words == "auto" else settings.words
        tags = Tags(piece=piece, unseen=task.labels[0]).bind(base, labels, None)  # its own answers are not used
        told = _TOLD[piece] if settings.words != "auto" else _REASONS[piece]
        return Place(reading=replace(tags, form=replace(tags.form, decoder=False)), how=piece, told=f"a word is read at {told}")
    pooling = ("mean" if whole else "last") if settings.pooling == "auto" else settings.pooling
    head = Head(pooling=pooling).bind(base, labels, None)
    told = _TOLD[pooling] if settings.pooling != "auto" else _REASONS[pooling]
    return Place(reading=replace(head, form=replace(head.form, decoder=False)), how=pooling, told=f"a text is read at {told}")


def seen(place: Place, examples: Sequence[Example]) -> Seen:
    """Examples as token ids.

    Raises:
        InputError: see `Reading.encode`.
    """
    if isinstance(place.reading, HeadReading):
        return Seen(encoded=tuple(map(place.reading.encode, examples)), items=((0,),) * len(examples))
    asked = [place.reading.inquiry(example) for example in examples]
    return Seen(encoded=tuple(one.item for one in asked), items=tuple(one.seen for one in asked))


@torch.no_grad()
def layer_states(
    base: Base, place: Place, examples: Seen, settings: Probing, *, batch_size: int, folder: Path | None, tell: Progress | None
) -> LayerStates:
    """Run every example once and keep what is read of it, at every layer.

    Args:
        base: the model; it is only run.
        place: what is read.
        examples: what is run; items are numbered through all of them.
        settings: the bound on memory.
        batch_size: examples in a batch.
        folder: where states beyond the bound are kept while this runs; None: the system's folder for temporary files.
        tell: is told how far it is.

    Raises:
        InputError: no space on the disk.
    """
    layers, features, done = len(layer_names(base)), base.hidden_size, 0
    cache = StateCache(examples.counts, layers * features, base.dtype, memory=settings.memory, folder=folder)
    for indices in by_length(examples.encoded, batch_size):
        batch = collate([examples.encoded[index] for index in indices], place.reading.form).to(base.device)
        counts = [examples.counts[index] for index in indices]
        read_MLH = torch.stack([_read(place, states_NTH, batch) for states_NTH in depths(base, batch.inputs)], 1)
        for index, states in zip(indices, torch.split(read_MLH.to(base.dtype).flatten(1), counts), strict=True):
            cache.put(index, states)
        done += len(indices)
        if tell is not None:
            tell(done, len(examples.encoded))
    return LayerStates(cache, layers, features)


def _read(place: Place, states_NTH: Tensor, batch: Batch) -> Tensor:
    """The states (M, H) of the items of a batch, one after the other."""
    if isinstance(place.reading, HeadReading):
        return pool(place.reading.pooled, states_NTH, batch)
    if place.how == "mean":
        return mean_states(states_NTH, batch.read_NP)
    return read_states(states_NTH, batch)[batch.read_NP >= 0]
