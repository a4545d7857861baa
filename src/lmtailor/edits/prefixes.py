"""Keys and values before the input: tuned prefixes, and prompts of causal decoders turned into prefixes.

In a causal decoder, tokens before the input act on it only through the keys and values that they leave in each layer.
So a prompt is run once, alone, and what attention saw is attached to every row, with gradient where it is trained.

Shapes: S adapters, L attention layers, K key/value heads, N virtual tokens, D features of a head, H features.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lmtailor.base.sites import Site
from lmtailor.base.stack import Stack
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.attention import ATTRIBUTE, Layer, Pass, autocast_dtype
from lmtailor.edits.edit import freshness
from lmtailor.edits.engine import Engine
from lmtailor.edits.gate import Gate
from lmtailor.edits.groups import Rows
from lmtailor.edits.kinds import PrefixEdit, PromptEdit
from lmtailor.edits.prefix_slots import Prefixes

LANES = 16
"""A prompt is run with padding behind it up to a multiple of so many tokens, as many as the widest vector has numbers. Then
attention over it is summed as in front of an input that is no shorter: what it leaves is, to the bit, what it leaves there."""

KeyValues = tuple[Tensor, Tensor]
"""Keys and values of one layer and one adapter, each (K, N, D)."""


def recorded(stack: Stack) -> bool:
    """Whether prompts before a stack act through the keys and values that they leave, and so are run once for all rows.

    Tokens of a stack that is not causal see the input, and a decoder's see each row's encoder output: they stand in every row.
    """
    return stack.causal and stack.name != "decoder"


@dataclass
class PrefixStore:
    """What stands before the input of one stack, for the rows of now."""

    engine: Engine
    stack: Stack
    layers: dict[str, Layer] = field(default_factory=dict)
    """Attention site → its layer."""
    _cache: dict[tuple[object, ...], dict[str, Prefixes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        base = self.engine.base
        for site in self._attention_sites():
            assert site.attention is not None
            module = base.module(site.attention.module)
            first = base.module(self._attention_sites()[0].attention.module)  # type: ignore[union-attr]
            relative = self.stack.positions == "relative" and not site.attention.cross
            own = relative and getattr(module, "has_relative_attention_bias", False)
            self.layers[site.name] = Layer(
                causal=self.stack.causal,
                cross=site.attention.cross,
                window=site.attention.window,
                fast=self.engine.fast,
                bias_from=(module if own else first) if relative else None,
            )

    def _attention_sites(self) -> list[Site]:
        return [site for site in self.engine.base.sites.values() if site.attention is not None and site.stack == self.stack.name]

    def _prompts(self, slot: int) -> list[PromptEdit]:
        own = self.engine.prompts(slot, self.stack) if recorded(self.stack) else []
        return [edit for edit in own if edit.place == "front"]

    def _tuned(self, slot: int) -> list[PrefixEdit]:
        names = set(self.layers)
        return [edit for edit in self.engine.of_kind(slot, PrefixEdit) if names & set(edit.sites)]

    def shift(self, slot: int | None, *, prompts: bool = True) -> int:
        """By how many positions the input of an adapter's rows moves on."""
        if slot is None:
            return 0
        return self._shift(slot, "front") + (sum(edit.length for edit in self._prompts(slot)) if prompts else 0)

    def late(self, slot: int | None) -> int:
        """By how many positions the answer of an adapter's rows moves on, beside what the input does."""
        return 0 if slot is None else self._shift(slot, "infix")

    def _shift(self, slot: int, place: Literal["front", "infix"]) -> int:
        tuned = [edit for edit in self._tuned(slot) if edit.place == place]
        if not tuned:  # asked for every row in every step
            return 0
        own = {site.name for site in self._attention_sites() if site.attention and not site.attention.cross}
        return sum(edit.length for edit in tuned if edit.shift and own & set(edit.sites))

    def has_infix(self, slot: int | None) -> bool:
        """Whether an adapter has keys and values between text and answer."""
        return slot is not None and any(edit.place == "infix" for edit in self._tuned(slot))

    @property
    def used(self) -> bool:
        """Whether any adapter has something before this stack's input."""
        return any(self._tuned(slot) or self._prompts(slot) for slot in range(len(self.engine.adapters)))

    def prepare(self) -> None:
        """Set every layer's prefixes for the rows of now; computed anew when a tensor or autocast changed, or gradients flow."""
        if not self.used:
            return
        slots = sorted({slot for slot in self.engine.rows.slots if slot is not None})
        tensors = [t for slot in slots for edit in self.engine.adapters[slot] for t in edit.trained().values()]
        fresh, live = freshness(tensors)
        key = (self.engine.rows, self.engine.recording, fresh, autocast_dtype(self.engine.base.device))
        made = None if live else self._cache.get(key)
        if made is None:
            made = self._make(slots)
            self._cache = {} if live else {key: made, **dict(list(self._cache.items())[:7])}
        for name, layer in self.layers.items():
            layer.now = Pass(prefixes=made.get(name))

    def _make(self, slots: list[int]) -> dict[str, Prefixes]:
        per_slot = {slot: self._tuned_key_values(slot) for slot in slots}
        prompted = [slot for slot in slots if self._prompts(slot)]
        if prompted and not self.engine.recording:
            for slot, recorded in zip(prompted, self._record(prompted), strict=True):
                for site, pair in recorded.items():
                    per_slot[slot].setdefault(site, []).append(pair)
        out = {}
        for site in self.layers:
            pairs = {slot: _joined(per_slot[slot][site]) for slot in slots if site in per_slot[slot]}
            if pairs:
                out[site] = replace(
                    self._prefixes(pairs),
                    gate=self._gate(site, pairs),
                    late_SN=self._late_slots(site, pairs),
                    places_SN=self._places(site, pairs),
                )
        return out

    def _prefixes(self, pairs: dict[int, KeyValues]) -> Prefixes:
        order = list(pairs)
        lengths = tuple(pairs[slot][0].shape[1] for slot in order)
        keys, values = (_stacked([pairs[slot][i] for slot in order], max(lengths)) for i in (0, 1))
        place = {slot: index for index, slot in enumerate(order)}
        rows = tuple(-1 if slot is None else place.get(slot, -1) for slot in self.engine.rows.slots)
        return Prefixes(keys_SKND=keys, values_SKND=values, lengths=lengths, slot_of_row=rows)

    def _gate(self, site: str, pairs: dict[int, KeyValues]) -> Gate | None:
        """The gates of a layer's prefixes, or None where no adapter has one. An adapter has one at most."""
        found: dict[int, tuple[Tensor, Tensor, slice]] = {}
        pooled = False
        for slot in pairs:
            start = 0
            for edit in (edit for edit in self._tuned(slot) if site in edit.sites):
                gate, end = edit.gate(), start + edit.length
                if gate is not None and slot in found:
                    raise UnsupportedError(f"Two prefixes with a gate at {site}: an adapter can have one. Leave one out.")
                if gate is not None:
                    number = edit.sites.index(site)
                    found[slot] = gate[0][number], gate[1][number], slice(start, end)
                    pooled = edit.pooled and not self.stack.causal
                start = end
        if not found:
            return None
        some = next(iter(found.values()))
        lengths = {slot: keys.shape[1] for slot, (keys, _) in pairs.items()}
        slots_SN = torch.zeros(len(pairs), max(lengths.values()), dtype=torch.bool, device=some[0].device)
        for number, slot in enumerate(pairs):
            if slot in found:
                first = slots_SN.shape[1] - lengths[slot]
                slots_SN[number, first + found[slot][2].start : first + found[slot][2].stop] = True
        return Gate(
            weight_SF=torch.stack([found[slot][0] if slot in found else torch.zeros_like(some[0]) for slot in pairs]),
            bias_S=torch.stack([found[slot][1] if slot in found else torch.zeros_like(some[1]) for slot in pairs]),
            slots_SN=slots_SN,
            pooled=pooled,
        )

    def _late_slots(self, site: str, pairs: dict[int, KeyValues]) -> Tensor | None:
        """Which slots of a layer's prefixes stand between text and answer (S, N), or None where none does."""
        if not any(map(self.has_infix, pairs)):
            return None
        longest, rows = max(keys.shape[1] for keys, _ in pairs.values()), []
        for slot, (keys, _) in pairs.items():
            tuned = [edit.place == "infix" for edit in self._tuned(slot) if site in edit.sites for _ in range(edit.length)]
            length = keys.shape[1]
            rows.append([False] * (longest - length) + tuned + [False] * (length - len(tuned)))
        return torch.tensor(rows, device=self.engine.base.device)

    def _places(self, site: str, pairs: dict[int, KeyValues]) -> Tensor | None:
        """Where a layer's slots stand (S, N), or None where no prefix leaves the positions behind it as they are."""
        tuned = {slot: [edit for edit in self._tuned(slot) if site in edit.sites] for slot in pairs}
        if self.layers[site].window is None or all(edit.shift for own in tuned.values() for edit in own):
            return None
        longest, rows = max(keys.shape[1] for keys, _ in pairs.values()), []
        for slot, (keys, _) in pairs.items():
            places: list[int] = []
            behind = 0
            for edit in tuned[slot]:
                first = behind if edit.shift else 0
                places += range(first, first + edit.length)
                behind += edit.length if edit.shift else 0
            places += range(behind, behind + keys.shape[1] - len(places))
            rows.append([0] * (longest - len(places)) + places)
        return torch.tensor(rows, device=self.engine.base.device)

    def _tuned_key_values(self, slot: int) -> dict[str, list[KeyValues]]:
        out: dict[str, list[KeyValues]] = {}
        for edit in self._tuned(slot):
            for site, tensor in zip(edit.sites, edit.key_values(), strict=True):
                if site in self.layers:
                    out.setdefault(site, []).append((tensor[0], tensor[1]))
        return out

    def _record(self, slots: list[int]) -> list[dict[str, KeyValues]]:
        """Run the prompts of these adapters, each in a row of its own under the adapter's other edits."""
        base = self.engine.base
        embedding, root = self.engine.embed(self.stack), base.module(self.stack.root)
        rows = []
        for slot in slots:
            with self.engine.narrowed(Rows((slot,))):
                rows.append(torch.cat([edit.embeddings(embedding).to(base.dtype) for edit in self._prompts(slot)]))
        longest, room = max(len(row) for row in rows), self.stack.max_positions
        if room is not None and longest > room:
            raise InputError(f"A prompt of {longest} tokens is longer than the model's {room} positions. Take a shorter one.")
        whole = -(-longest // LANES) * LANES
        longest = whole if room is None else min(whole, room)
        embeds_SNH = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
        before, passes = self.engine.recording, {name: layer.now for name, layer in self.layers.items()}
        self.engine.recording = True
        for layer in self.layers.values():
            layer.recording = []
        try:
            with self.engine.narrowed(Rows(tuple(slots))):
                root(inputs_embeds=embeds_SNH, use_cache=False)
            recorded = {name: layer.recording[-1] for name, layer in self.layers.items() if layer.recording}
        finally:
            self.engine.recording = before
            for name, layer in self.layers.items():
                layer.recording, layer.now = None, passes[name]
        return [
            {name: (keys[i, :, : len(row)], values[i, :, : len(row)]) for name, (keys, values) in recorded.items()}
            for i, row in enumerate(rows)
        ]

    def install(self) -> list[object]:
        """Give every attention module its layer; returns hook handles. A shared module gets the layer of its call."""
        handles: list[object] = []
        if not self.used:
            return handles
        by_module: dict[str, list[Site]] = {}
        for site in self._attention_sites():
            by_module.setdefault(site.attention.module, []).append(site)  # type: ignore[union-attr]
        for path, sites in by_module.items():
            module = self.engine.base.module(path)
            layers = [self.layers[site.name] for site in sorted(sites, key=lambda site: site.call)]
            setattr(module, ATTRIBUTE, layers[0])
            if len(layers) > 1:
                handles.append(module.register_forward_pre_hook(_Turn(layers)))
            if any(edit.gate() is not None for slot in range(len(self.engine.adapters)) for edit in self._tuned(slot)):
                handles.append(module.register_forward_pre_hook(_look, with_kwargs=True))
        return handles

    def remove(self) -> None:
        """Take the layers away."""
        for site in self._attention_sites():
            module = self.engine.base.module(site.attention.module)  # type: ignore[union-attr]
            module.__dict__.pop(ATTRIBUTE, None)


class _Turn:
    """A pre-hook that gives a shared attention module the layers of its calls in turn."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers
        self.call = 0

    def __call__(self, module: torch.nn.Module, args: object) -> None:
        setattr(module, ATTRIBUTE, self.layers[self.call])
        self.call = (self.call + 1) % len(self.layers)


def _look(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Show a layer the input of its attention, from which gates are computed."""
    layer: Layer = getattr(module, ATTRIBUTE)
    layer.look(args[0] if args else kwargs["hidden_states"])


def _joined(pairs: list[KeyValues]) -> KeyValues:
    if len(pairs) == 1:
        return pairs[0]
    return torch.cat([keys for keys, _ in pairs], 1), torch.cat([values for _, values in pairs], 1)


def _stacked(tensors: list[Tensor], length: int) -> Tensor:
    """(S, K, N, D), padded on the left."""
    if len(tensors) == 1:
        return tensors[0][None]
    return torch.stack([F.pad(tensor, (0, 0, length - tensor.shape[1], 0)) for tensor in tensors])
