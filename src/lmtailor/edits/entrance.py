"""The door of a stack: what happens to its inputs before, and to its output after, a pass through it.

Positions move on where something stands before the input; in stacks that are not causal, and in the decoder of an
encoder-decoder, prompts become virtual tokens in front of the embeddings, and are taken off the output again. Behind a cache
they have been put already, and only the mask is widened. Those beside an encoder's gap, and those between the text and the
answer of a causal decoder, are put by `insertion`.

Shapes: B sequences (rows · beams), T tokens, N virtual tokens, H features. Virtual tokens are aligned on the right, next to
the input, so that distances are the same in every row.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmtailor.base.rope import rope_depends_on_batch
from lmtailor.base.stack import Stack
from lmtailor.core.errors import InputError, StateError, UnsupportedError
from lmtailor.edits.engine import Engine
from lmtailor.edits.groups import Rows
from lmtailor.edits.infix import Between, gaps_of
from lmtailor.edits.insertion import BESIDE, Insertion, gaps_in
from lmtailor.edits.kinds import Place, PromptEdit
from lmtailor.edits.places import places_of
from lmtailor.edits.prefixes import PrefixStore, recorded

_OF_SEQUENCES = (
    "input_ids",
    "inputs_embeds",
    "attention_mask",
    "position_ids",
    "token_type_ids",
    "encoder_hidden_states",
    "encoder_attention_mask",
)
"""Arguments of a stack with a row for each sequence of the caller."""


class Entrance:
    """Hooks on the root of one stack."""

    def __init__(
        self, engine: Engine, stack: Stack, prefixes: PrefixStore, on_pass: Callable[[], None], *, keep_virtual: bool = False
    ) -> None:
        self.engine = engine
        self.stack = stack
        self.prefixes = prefixes
        self.on_pass = on_pass
        self.keep_virtual = keep_virtual
        self.root = engine.base.module(stack.root)
        self.names = list(inspect.signature(inspect.unwrap(type(self.root).forward)).parameters)[1:]
        self.virtual = 0
        """Virtual tokens in front of the current pass."""
        self.present_BN: Tensor | None = None
        """Which of them are real, a row."""
        self.insertion: Insertion | None = None
        """Where virtual tokens stand in the midst of the rows of the current pass."""
        self._positions_BT: Tensor | None = None
        self._places_asked = engine.asks_places
        self._late: Tensor | None = None
        """Which tokens of the current pass see what stands between text and answer."""
        slots = range(len(engine.adapters))
        places = {edit.place for slot in slots for edit in engine.prompts(slot, stack)}
        self._inserts = bool(places & set(BESIDE))
        self.has_infix = "infix" in places or any(prefixes.has_infix(slot) for slot in slots)
        """Whether some adapter puts something between text and answer."""

    def register(self) -> list[Any]:
        """Hook the root, and the position embedding where positions are looked up inside."""
        handles: list[Any] = [
            self.root.register_forward_pre_hook(self._before, with_kwargs=True),
            self.root.register_forward_hook(self._after, prepend=True),
        ]
        moves = any(self._lead(slot) for slot in range(len(self.engine.adapters)))
        if self.stack.positions == "embedding" and moves:
            table = self.engine.base.module(self.stack.position_embedding or "")
            handles.append(table.register_forward_hook(self._look_up))
        return handles

    def _prompts(self, slot: int | None, place: Place = "front") -> list[PromptEdit]:
        if slot is None or (place == "front" and recorded(self.stack)):
            return []
        return [edit for edit in self.engine.prompts(slot, self.stack) if edit.place == place]

    def width(self, slot: int | None, place: Place = "front") -> int:
        """Virtual tokens that an adapter puts at a place among the embeddings, by default in front of them."""
        return sum(edit.length for edit in self._prompts(slot, place))

    def _lead(self, slot: int | None) -> int:
        """By how much the positions of a row's input move on."""
        return self.prefixes.shift(slot, prompts=not self.engine.recording) + self.width(slot)

    def _before(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        kwargs = {**dict(zip(self.names, args, strict=False)), **kwargs}
        batch, tokens = _shape(kwargs)
        rows = self.engine.rows
        asked = len(rows.copies) or rows.count
        if not rows.shared and batch % asked:
            raise InputError(f"A batch of {batch} sequences cannot be divided into the {asked} rows that were attached.")
        if rows.copies:
            kwargs |= {name: rows.repeated(kwargs[name]) for name in _OF_SEQUENCES if _is_of(batch, kwargs.get(name))}
            batch = _shape(kwargs)[0]
        self.on_pass()
        if self._inserts:
            self._insert(kwargs, batch)
            tokens = _shape(kwargs)[1]
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        self.prefixes.prepare()
        self.engine.phase = "decode" if past else "prefill"
        leads = [self._lead(slot) for slot in self.engine.rows.slots]
        widths = [self.width(slot) for slot in self.engine.rows.slots]
        self.virtual, self.present_BN, self._positions_BT = 0, None, None
        # The cache of a decoder holds its virtual tokens, in as many slots as the longest prompt of the batch has.
        own_past = past - max(widths) if past else 0
        layers = self.prefixes.layers.values()
        between = self._between(kwargs, batch, tokens, past)
        tokens = _shape(kwargs)[1]
        windows = any(layer.window is not None and layer.now.prefixes is not None for layer in layers)
        if any(leads) or windows or between:
            self._move(kwargs, leads, [] if past else widths, batch, tokens, own_past)
        starts = tuple(max(widths) - width for width in widths) if any(widths) else ()
        for layer in layers:
            layer.now = replace(layer.now, positions_BQ=self._positions_BT, starts=starts, late_BQ=self._late)
        if any(widths):
            self.present_BN = self._present(widths, batch)
            if past:
                kwargs["attention_mask"] = self.widened(kwargs.get("attention_mask"), own_past + tokens)
            else:
                self._put(kwargs, widths, batch)
        self._share(kwargs)
        self._tell_places(kwargs, widths, batch, behind=bool(past))
        return (), kwargs

    def _tell_places(self, kwargs: dict[str, Any], widths: list[int], batch: int, *, behind: bool) -> None:
        """Leave where the tokens of this pass stand; where prompts are run alone, all of them are virtual."""
        self.engine.places = None
        if behind or not self._places_asked:
            return
        tokens = _shape(kwargs)[1]
        widths = [tokens for _ in widths] if self.engine.recording else widths
        mask = kwargs.get("attention_mask")
        if self.insertion is not None:
            mask = self.insertion.without(kwargs["attention_mask"], self.virtual)
        self.engine.places = places_of(mask, batch, tokens, widths, self.engine.base.device)

    def _share(self, kwargs: dict[str, Any]) -> None:
        """Tell edits that ask for means over sequences what each token's share is. A causal stack has none: no token sees all."""
        self.engine.shares_BT1 = None
        if self.stack.causal or not self.engine.pools:
            return
        mask, shape = kwargs.get("attention_mask"), _shape(kwargs)
        if mask is not None and mask.ndim != 2:
            raise UnsupportedError("A gate that is a mean over the sequence needs a two-dimensional attention mask.")
        real_BT = torch.ones(shape, device=self.engine.base.device) if mask is None else mask.to(self.engine.base.dtype)
        self.engine.shares_BT1 = (real_BT / real_BT.sum(1, keepdim=True).clamp_min(1))[..., None]
        for layer in self.prefixes.layers.values():
            layer.now = replace(layer.now, shares_BT1=self.engine.shares_BT1)

    # positions

    def _move(self, kwargs: dict[str, Any], leads: list[int], widths: list[int], batch: int, tokens: int, past: int) -> None:
        if rope_depends_on_batch(self.root.config) and len(self._spans(leads)) > 1:
            raise UnsupportedError(
                "This model's rotary embedding depends on the longest sequence of the batch (dynamic or longrope), so rows with "
                "prefixes of different lengths would change each other. Run them in batches of one length."
            )
        device = self.engine.base.device
        if self.stack.positions == "relative":
            self._positions_BT = torch.arange(tokens, device=device)[None] + past
            return
        lead_B1 = torch.tensor(leads, device=device).repeat_interleave(batch // len(leads))[:, None]
        own_BT = self._default(kwargs, batch, tokens, past) + lead_B1
        width = max(widths, default=0)
        if width:
            start = width - torch.tensor(widths, device=device).repeat_interleave(batch // len(widths))[:, None]
            first = self.stack.position_offset if self.stack.positions == "ids" else 0
            before = lead_B1 - (width - start)
            virtual_BN = (torch.arange(width, device=device)[None] - start).clamp_min(0) + before + first
            own_BT = torch.cat([virtual_BN, own_BT], 1)
        self._check_room(int(own_BT.max()) + 1)
        self._positions_BT = own_BT
        if self.stack.positions != "embedding":
            kwargs["position_ids"] = own_BT

    def _spans(self, leads: list[int]) -> set[int]:
        """By how much the rows' last positions move on."""
        rows = zip(leads, self.engine.rows.slots, strict=True)
        return {lead + self.prefixes.late(slot) + self.width(slot, "infix") for lead, slot in rows}

    def _default(self, kwargs: dict[str, Any], batch: int, tokens: int, past: int) -> Tensor:
        """The positions (B or 1, T) that the model would have taken."""
        device = self.engine.base.device
        given = kwargs.get("position_ids")
        if given is not None:
            return given.expand(batch, -1) if given.shape[0] == 1 else given  # type: ignore[no-any-return]
        mask = kwargs.get("attention_mask")
        if self.stack.positions == "mask" and mask is not None and mask.ndim == 2:
            counted: Tensor = mask.long().cumsum(1) * mask.long() - 1
            return counted[:, -tokens:]
        if self.stack.positions == "ids":
            ids = kwargs.get("input_ids")
            if ids is None:
                return torch.arange(tokens, device=device)[None].expand(batch, -1) + self.stack.position_offset
            real = ids.ne(self.stack.position_offset - 1).long()
            return real.cumsum(1) * real + self.stack.position_offset - 1  # type: ignore[no-any-return]
        return (torch.arange(tokens, device=device)[None] + past).expand(batch, -1)

    def _check_room(self, needed: int) -> None:
        room = self.stack.max_positions
        needed -= self.stack.position_offset if self.stack.positions == "ids" else 0
        if room is not None and needed > room:
            raise InputError(
                f"Prefix and input need {needed} positions; the model has {room}. Cut the input or take a shorter prefix."
            )

    def _look_up(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if self._positions_BT is None:
            return None
        out = F.embedding(self._positions_BT + self.stack.position_offset, module.weight)  # type: ignore[arg-type]
        return out.to(output.dtype)

    # virtual tokens

    def _put(self, kwargs: dict[str, Any], widths: list[int], batch: int) -> None:
        embedding = self.engine.embed(self.stack)
        embeds_BTH = kwargs.get("inputs_embeds")
        ids = kwargs.pop("input_ids", None)
        if embeds_BTH is None:
            embeds_BTH = embedding(ids)
        self.virtual = width = max(widths)
        virtual_BNH = self._tokens("front", width, embeds_BTH)
        kwargs["inputs_embeds"] = torch.cat([virtual_BNH, embeds_BTH], 1)
        kwargs["attention_mask"] = self.widened(kwargs.get("attention_mask"), embeds_BTH.shape[1])
        if kwargs.get("token_type_ids") is not None:
            kwargs["token_type_ids"] = F.pad(kwargs["token_type_ids"], (width, 0))

    def _tokens(self, place: Place, width: int, like_BTH: Tensor) -> Tensor:
        """The virtual tokens of each row at a place (B, width, H), aligned on the right in front and on the left elsewhere."""
        embedding, rows = self.engine.embed(self.stack), {}
        for slot in dict.fromkeys(self.engine.rows.slots):
            with self.engine.narrowed(Rows((slot,))):
                parts = [edit.embeddings(embedding).to(like_BTH.dtype) for edit in self._prompts(slot, place)]
            prompt = torch.cat(parts) if parts else like_BTH.new_zeros(0, like_BTH.shape[-1])
            missing = width - len(prompt)
            rows[slot] = F.pad(prompt, (0, 0, missing, 0) if place == "front" else (0, 0, 0, missing))
        slots = self.engine.rows.slots
        return torch.stack([rows[slot] for slot in slots]).repeat_interleave(like_BTH.shape[0] // len(slots), 0)

    def _insert(self, kwargs: dict[str, Any], batch: int) -> None:
        """Put the virtual tokens that stand beside the gap into the rows."""
        slots = self.engine.rows.slots
        lengths = [[sum(edit.length for edit in self._prompts(slot, place)) for place in BESIDE] for slot in slots]
        self.insertion = None
        if not any(map(any, lengths)):
            return
        if kwargs.get("position_ids") is not None:
            raise UnsupportedError(
                "Virtual tokens around the gap move positions themselves; call the model without position_ids."
            )
        base, ids, mask = self.engine.base, kwargs.pop("input_ids", None), kwargs.get("attention_mask")
        gaps_B2 = gaps_in(ids if kwargs.get("inputs_embeds") is None else None, mask, base.tokenizer.mask_token_id)
        counts_B2 = torch.tensor(lengths, device=gaps_B2.device).repeat_interleave(batch // len(slots), 0)
        self.insertion = made = Insertion.at(gaps_B2, counts_B2, ids.shape[1])
        self._check_room(made.length)
        own_BTH = self.engine.embed(self.stack)(ids)
        widths = [max(column) for column in zip(*lengths, strict=True)]
        new_BMH = torch.cat([self._tokens(place, width, own_BTH) for place, width in zip(BESIDE, widths, strict=True)], 1)
        kwargs["inputs_embeds"] = made.joined(own_BTH, new_BMH)
        kwargs["attention_mask"] = made.marked(torch.ones_like(ids) if mask is None else mask, 1)
        if kwargs.get("token_type_ids") is not None:
            kwargs["token_type_ids"] = made.marked(kwargs["token_type_ids"], 0)

    def _between(self, kwargs: dict[str, Any], batch: int, tokens: int, past: int) -> bool:
        """Put virtual tokens between text and answer, and say which tokens see what else stands there; whether any row has it."""
        self._late = None
        if not self.has_infix:
            return False
        self.insertion = None
        slots = self.engine.rows.slots
        counts, late = [self.width(slot, "infix") for slot in slots], [self.prefixes.late(slot) for slot in slots]
        if self.engine.recording or not (any(counts) or any(map(self.prefixes.has_infix, slots))):
            return False
        device, width, mask = self.engine.base.device, max(counts), kwargs.get("attention_mask")
        own_past = past - width if past else 0
        counts_B, late_B = (torch.tensor(own, device=device).repeat_interleave(batch // len(slots)) for own in (counts, late))
        answer = self.engine.answer
        answer = self.engine.rows.repeated(answer) if isinstance(answer, Tensor) else answer
        gaps_B = gaps_of(answer, mask, batch, tokens, own_past, device)
        it = Between(gaps_B=gaps_B, counts_B=counts_B, late_B=late_B, past=own_past, tokens=tokens)
        positions_BT = it.positions(self._default(kwargs, batch, tokens, own_past))
        self._late = it.behind_BT
        if width and not past:
            self.insertion = made = Insertion.between(gaps_B, counts_B, tokens)
            own_BTH, ids = kwargs.get("inputs_embeds"), kwargs.pop("input_ids", None)
            own_BTH = self.engine.embed(self.stack)(ids) if own_BTH is None else own_BTH
            kwargs["inputs_embeds"] = made.joined(own_BTH, self._tokens("infix", width, own_BTH))
            positions_BT, self._late = it.inserted(positions_BT, made), made.marked(self._late.long(), 1).bool()
        if width:
            own_BS = torch.ones(batch, own_past + tokens, dtype=torch.long, device=device) if mask is None else mask
            kwargs["attention_mask"] = it.widened(own_BS)
        kwargs["position_ids"] = positions_BT
        return True

    def without_inserted(self, state: Tensor) -> Tensor:
        """States without the virtual tokens in the midst of the rows."""
        return state if self.insertion is None else self.insertion.taken(state, self.virtual)

    def _present(self, widths: list[int], batch: int) -> Tensor:
        """Which virtual slots are real for each sequence, (B, N)."""
        device = self.engine.base.device
        counts_B = torch.tensor(widths, device=device).repeat_interleave(batch // len(widths))
        return torch.arange(max(widths), device=device)[None] >= max(widths) - counts_B[:, None]

    def widened(self, mask: Tensor | None, tokens: int) -> Tensor:
        """A mask (B, T) with the virtual tokens in front, (B, N + T)."""
        assert self.present_BN is not None
        if mask is None:
            mask = torch.ones(self.present_BN.shape[0], tokens, dtype=torch.long, device=self.present_BN.device)
        if mask.ndim != 2:
            raise UnsupportedError("A prompt of tokens in every row needs a two-dimensional attention mask.")
        present = self.present_BN.repeat_interleave(mask.shape[0] // self.present_BN.shape[0], 0)
        return torch.cat([present.to(mask.dtype), mask], 1)

    def _after(self, root: nn.Module, args: Any, output: Any) -> Any:
        front = 0 if self.keep_virtual or self.stack.name == "encoder" else self.virtual
        if not front and self.insertion is None:
            return output
        if isinstance(output, tuple):
            raise StateError("Call the model with return_dict=True while a prompt is attached.")
        output.last_hidden_state = self.without_inserted(output.last_hidden_state)[:, front:]
        if getattr(output, "hidden_states", None) is not None:
            output.hidden_states = tuple(self.without_inserted(state)[:, front:] for state in output.hidden_states)
        return output


def _is_of(batch: int, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape[0] == batch


def _shape(kwargs: dict[str, Any]) -> tuple[int, int]:
    """Sequences and tokens of a call."""
    given = kwargs.get("input_ids") if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]
    if given is None:
        raise InputError("The model was called without input_ids and without inputs_embeds.")
    return int(given.shape[0]), int(given.shape[1])


def widen_cross_mask(
    encoder: Entrance, args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str]
) -> tuple[tuple[()], dict[str, Any]]:
    """A decoder's arguments with the encoder's virtual tokens in its mask over the encoder's output."""
    kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
    if encoder.virtual:
        states, mask = kwargs["encoder_hidden_states"], kwargs.get("encoder_attention_mask")
        tokens = states.shape[1] - encoder.virtual
        if mask is None:
            mask = torch.ones(states.shape[0], tokens, dtype=torch.long, device=states.device)
        kwargs["encoder_attention_mask"] = encoder.widened(mask, tokens)
    return (), kwargs
