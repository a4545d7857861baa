"""Where a fit's scores come from: the whole model, the blocks above a cached trunk, or features that are pooled once.

Shapes: B examples, C labels, N sequences, T tokens, H features.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.attach import Attached
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PromptEdit
from lmtailor.edits.replay import Replay, frozen_blocks
from lmtailor.fit.cache import StateCache, needed_bytes
from lmtailor.fit.training import Training
from lmtailor.infer.packing import why_not_packed
from lmtailor.infer.passes import shared_states
from lmtailor.infer.score import Progress, by_length
from lmtailor.readouts.batch import Batch, Encoded, by_item
from lmtailor.readouts.featured import Featured
from lmtailor.readouts.readout import Reading
from lmtailor.store.adapter import virtual_tokens


class Source(Protocol):
    """Scores of examples that were encoded before."""

    def scores(self, indices: Sequence[int], *, training: bool) -> tuple[Tensor, Batch]:
        """Scores (B, C) of some examples, and their batch."""


class WholeModel:
    """Everything runs every time."""

    def __init__(
        self,
        attached: Attached,
        reading: Reading,
        items: Sequence[Encoded],
        autocast: torch.autocast,
        *,
        slot: int = 0,
        shared: bool = False,
    ) -> None:
        self.attached, self.reading, self.items, self.autocast, self.slot = attached, reading, items, autocast, slot
        self.shared = shared
        """Whether equal beginnings run once."""

    def scores(self, indices: Sequence[int], *, training: bool) -> tuple[Tensor, Batch]:
        """Run the trunk and read it."""
        batch = self.reading.collate([self.items[i] for i in indices]).to(self.attached.base.device)
        with self.autocast:
            if self.shared:
                states = shared_states(self.attached, batch.inputs, self.groups(indices))
            else:
                states = self.attached.states(batch.inputs, batch.answer_N)
            return self.attached.scores(self.slot, states, batch, training=training), batch

    def groups(self, indices: Sequence[int]) -> list[str]:
        """The example of each sequence."""
        return [self.items[i].id for i in indices for _ in self.items[i].sequences]


class Narrowed:
    """Scores of one adapter of several that are attached."""

    def __init__(self, whole: WholeModel) -> None:
        self.whole = whole

    def scores(self, indices: Sequence[int], *, training: bool) -> tuple[Tensor, Batch]:
        """Run the trunk as if all rows were this adapter's."""
        with self.whole.attached.narrowed([self.whole.slot]):
            return self.whole.scores(indices, training=training)


class CachedTrunk:
    """The blocks below the lowest edit ran once; the others run every time."""

    def __init__(self, whole: WholeModel, replay: Replay, cache: StateCache, first: Sequence[int]) -> None:
        self.whole, self.replay, self.cache, self.first = whole, replay, cache, first

    def scores(self, indices: Sequence[int], *, training: bool) -> tuple[Tensor, Batch]:
        """Play the kept states back and run what is above them."""
        whole = self.whole
        batch = whole.reading.collate([whole.items[i] for i in indices]).to(whole.attached.base.device)
        sequences = [self.first[i] + k for i in indices for k in range(batch.per_row)]
        lower = self.cache.get(sequences, batch.mask_NT.shape[1]).to(whole.attached.base.device)
        if whole.shared:
            groups, playing = whole.groups(indices), self.replay.playing
            with whole.autocast:
                kept = shared_states(whole.attached, batch.inputs, groups, lower_NTH=lower, playing=playing)
                return whole.attached.scores(0, kept, batch, training=training), batch
        with whole.autocast, self.replay.playing(lower):
            kept = whole.attached.states(batch.inputs, batch.answer_N)
            return whole.attached.scores(0, kept, batch, training=training), batch


class PooledFeatures:
    """Nothing below the head is trained: its input is computed once, and a step is a step of the head alone."""

    def __init__(self, whole: WholeModel, reading: Featured, features: Sequence[Tensor]) -> None:
        """The features (units, F) are those of each item."""
        self.whole, self.reading, self.features = whole, reading, features

    def scores(self, indices: Sequence[int], *, training: bool) -> tuple[Tensor, Batch]:
        """Run the head."""
        batch = self.whole.reading.collate([self.whole.items[i] for i in indices]).to(self.whole.attached.base.device)
        return self.reading.scores_from(torch.cat([self.features[i] for i in indices]), training=training), batch


def autocast(base: Base, training: Training) -> torch.autocast:
    """What a forward of this fit runs under."""
    return torch.autocast(base.device.type, torch.bfloat16, enabled=training.precision == "bfloat16")


def make_source(
    attached: Attached,
    edits: Edits,
    reading: Reading,
    items: Sequence[Encoded],
    training: Training,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    shared: bool = False,
) -> tuple[Source, str]:
    """The cheapest exact source, and a sentence that says what it is.

    Args:
        attached: with the adapter that is trained, its frozen modules in eval mode.
        edits: of that adapter.
        reading: of that adapter.
        items: encoded examples.
        training: its bounds on the cache.
        folder: where a cache may spill to.
        progress: told while the cache fills.
        shared: whether equal beginnings run once.

    Raises:
        UnsupportedError: they are to, and cannot.
    """
    base = attached.base
    if shared and (why := why_not_shared(base, edits, reading, items)) is not None:
        raise UnsupportedError(f"training.share_inputs cannot run equal inputs once here: {why}. Set it to false.")
    whole = WholeModel(attached, reading, items, autocast(base, training), shared=shared)
    if not training.cache_trunk:
        return whole, "the trunk is not cached (training.cache_trunk is false)"
    if not edits and isinstance(reading, Featured):
        return _pooled(
            whole, reading, training, progress
        ), f"the trunk is frozen: features of {len(items):,} examples were computed once"
    count = frozen_blocks(base, edits, reading.layers)
    if count == 0:
        return whole, "nothing to cache: an edit acts in the first block or before it, or the model's blocks cannot be replayed"
    lengths = [len(sequence) for item in items for sequence in item.sequences]
    need = needed_bytes(lengths, base.hidden_size, base.dtype)
    if need > training.cache_memory + training.cache_disk:
        return whole, f"the trunk is not cached: {need / 1e9:.1f} GB are above training.cache_memory + training.cache_disk"
    source, spilled = _cached(whole, Replay(base, count), lengths, training, folder, progress)
    where = f", {spilled / 1e6:.0f} MB of them on disk" if spilled else ""
    blocks = f"{len(base.stacks[0].blocks)} {base.stacks[0].name}".strip()
    return source, f"the first {count} of {blocks} blocks are frozen: they ran once an example ({need / 1e6:.0f} MB kept{where})"


def why_not_shared(base: Base, edits: Edits, reading: Reading, items: Sequence[Encoded]) -> str | None:
    """Why equal inputs cannot run once with the same result, as the end of a sentence; None where they can."""
    if base.kind == "encoder-decoder":
        prompted = any(isinstance(edit, PromptEdit) for edit in edits)
        return "its virtual tokens stand in every row" if prompted else "rows run more than once" if edits.mixed else None
    return why_not_packed(base, edits, virtual_tokens(edits) + len(reading.prompt()) + max(item.length for item in items))


def _pooled(whole: WholeModel, reading: Featured, training: Training, progress: Progress | None) -> PooledFeatures:
    base, items = whole.attached.base, whole.items
    found: dict[int, Tensor] = {}
    with torch.no_grad(), whole.autocast:
        for indices in by_length(items, training.batch_size):
            batch = whole.reading.collate([items[i] for i in indices]).to(base.device)
            states = whole.attached.own_states(0, whole.attached.states(batch.inputs, batch.answer_N))
            features = reading.features(base, states, batch).float()
            found.update(zip(indices, by_item(features, [items[i] for i in indices]), strict=True))
            if progress is not None:
                progress(len(found), len(items))
    return PooledFeatures(whole, reading, [found[i] for i in range(len(items))])


def _cached(
    whole: WholeModel, replay: Replay, lengths: list[int], training: Training, folder: Path | None, progress: Progress | None
) -> tuple[CachedTrunk, int]:
    base, items, done = whole.attached.base, whole.items, 0
    counts = [len(item.sequences) for item in items]
    first = [0, *itertools.accumulate(counts)]
    cache: StateCache | None = None
    with torch.no_grad(), whole.autocast, replay.capturing():
        for indices in by_length(items, training.batch_size):
            batch = whole.reading.collate([items[i] for i in indices]).to(base.device)
            whole.attached.states(batch.inputs, batch.answer_N)
            states = replay.kept()
            if cache is None:
                cache = StateCache(lengths, base.hidden_size, states.dtype, memory=training.cache_memory, folder=folder)
            for row, sequence in enumerate(first[i] + k for i in indices for k in range(batch.per_row)):
                cache.put(sequence, states[row, : lengths[sequence]])
            done += len(indices)
            if progress is not None:
                progress(done, len(items))
    assert cache is not None
    return CachedTrunk(whole, replay, cache, first), cache.spilled
