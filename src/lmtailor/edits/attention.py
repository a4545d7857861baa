"""Attention with keys and values that stand before the sequence's own.

A function for each attention implementation is registered with transformers' attention interface (`lmtailor_sdpa`,
`lmtailor_eager`) together with its mask function; without the latter, masks would arrive as None. A module that has
a `Layer` in its `_lmtailor_layer` attribute is served by it, every other one by the implementation itself.

Prefix slots are aligned on the right: slot j of a prefix of n tokens padded to N stands at position n - N + j of the
prefix, and at j - N seen from the first token of the input, in every row.

Shapes: R rows, B sequences (rows · beams), S prefixes, H query heads, K key/value heads, Q queries, T own keys, N prefix slots,
D features.
"""

import sys
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.prefix_slots import Prefixes

ATTRIBUTE = "_lmtailor_layer"
IMPLEMENTATIONS = {"sdpa": "lmtailor_sdpa", "eager": "lmtailor_eager"}

MUCH = 8
"""From how many times its tokens on a prefix is better not padded for all sequences."""

Output = tuple[Tensor, Tensor | None]
"""(B, Q, H, D) and, where the implementation gives them, the attention weights."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What a layer knows of one pass through its stack."""

    prefixes: Prefixes | None = None
    positions_BQ: Tensor | None = None
    """Positions of the queries, where a window needs them."""
    starts: tuple[int, ...] = ()
    """For each row the index of its first token, where masked slots of longer prompts stand before it; () if all begin at 0."""
    shares_BT1: Tensor | None = None
    """Each token's share in the mean over its sequence, where some edit asks for it."""
    late_BQ: Tensor | None = None
    """Which queries see prefixes that stand between text and answer, where there are such."""


@dataclass
class Layer:
    """One attention module while attached."""

    causal: bool
    cross: bool
    window: int | None = None
    fast: bool = False
    """Whether rows that share a prefix attend to it once also in texts that are read; else sums are the implementation's own."""
    bias_from: nn.Module | None = None
    """Where a relative position bias is computed (T5)."""
    recording: list[tuple[Tensor, Tensor]] | None = None
    """Where to put keys and values as attention sees them."""
    now: Pass = Pass()
    factors_BQN: Tensor | None = None
    """Factors of the prefix's slots in the call that comes, where it has a gate."""

    def look(self, x_BQF: Tensor) -> None:
        """See the input of the call that comes."""
        prefixes = self.now.prefixes
        gate = None if prefixes is None else prefixes.gate
        self.factors_BQN = None
        if prefixes is not None and gate is not None:
            self.factors_BQN = gate.factors(x_BQF, prefixes.slot_of_row, self.now.shares_BT1)


def _inner(module: nn.Module, implementation: str) -> Any:
    if implementation == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[implementation]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the attention interface."""

    implementation: str
    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: dict[str, Any]

    def plain(self) -> Output:
        """What the implementation itself makes of it."""
        inner = _inner(self.module, self.implementation)
        out: Output = inner(self.module, self.query, self.key, self.value, self.mask, **self.options)
        return out


def _attend(call: Call) -> Output:
    layer: Layer | None = getattr(call.module, ATTRIBUTE, None)
    if layer is not None and layer.recording is not None:
        layer.recording.append((call.key, call.value))
    if layer is None or layer.now.prefixes is None:
        return call.plain()
    if layer.factors_BQN is not None:
        return _gated(call, layer, layer.now.prefixes, layer.factors_BQN), None
    options = call.options
    simple = options.get("position_bias") is None and options.get("softcap") is None and not options.get("dropout")
    if (
        call.implementation == "sdpa"
        and simple
        and not torch.is_grad_enabled()
        and (layer.fast or call.query.shape[2] == 1)
        and _shares(layer.now.prefixes, call.query.shape[0])
    ):
        return _merged(call, layer, layer.now.prefixes), None
    return _concatenated(call, layer, layer.now.prefixes)


def _concatenated(call: Call, layer: Layer, prefixes: Prefixes) -> Output:
    """The implementation itself, on prefix and own keys in one row: for training, short prefixes, softcap and position bias."""
    query, key, value, options = call.query, call.key, call.value, call.options
    keys_BKND, values_BKND = _per_sequence(prefixes, query.shape[0])
    visible_B1QN, own = _visible(layer, prefixes, query), _own_mask(layer, call)
    if own.dtype != torch.bool:
        visible_B1QN = _additive(visible_B1QN, own.dtype)
    whole = torch.cat([visible_B1QN, own], -1)
    if call.implementation == "eager" and whole.dtype == torch.bool:
        whole = _additive(whole, query.dtype)
    bias = options.get("position_bias")
    if bias is not None:
        extra = _prefix_bias(layer, bias, query.shape[0], query.shape[2], keys_BKND.shape[2], key.shape[2])
        own_bias = bias[..., : key.shape[2]].expand(extra.shape[0], -1, -1, -1)
        options = {**options, "position_bias": torch.cat([extra, own_bias], -1)}
    keys = torch.cat([keys_BKND.to(key.dtype), key], 2)
    values = torch.cat([values_BKND.to(value.dtype), value], 2)
    return replace(call, key=keys, value=values, mask=whole, options=options).plain()


def _gated(call: Call, layer: Layer, prefixes: Prefixes, factors_BQN: Tensor) -> Tensor:
    """Attention over prefix and own keys where the prefix's keys and values have a factor for each query, (B, Q, H, D)."""
    query, options = call.query, call.options
    groups = query.shape[1] // call.key.shape[1]
    key, value = _repeat(call.key, groups), _repeat(call.value, groups)
    keys, values = (_repeat(x.to(query.dtype), groups) for x in _per_sequence(prefixes, query.shape[0]))
    scaling, cap, bias = (options.get(name) for name in ("scaling", "softcap", "position_bias"))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    factors_B1QN = factors_BQN[:, None].to(query.dtype)
    before, own = query @ keys.transpose(-1, -2) * scale * factors_B1QN, query @ key.transpose(-1, -2) * scale
    if bias is not None:
        before = before + _prefix_bias(layer, bias, query.shape[0], query.shape[2], keys.shape[2], key.shape[2])
        own = own + bias[..., : key.shape[2]]
    if cap is not None:
        before, own = torch.tanh(before / cap) * cap, torch.tanh(own / cap) * cap
    mask = _own_mask(layer, call)
    own = own + (_additive(mask, own.dtype) if mask.dtype == torch.bool else mask)
    before = before + _additive(_visible(layer, prefixes, query), before.dtype)
    weights = torch.softmax(torch.cat([before, own], -1), -1, dtype=torch.float32).to(query.dtype)
    weights = torch.nn.functional.dropout(weights, options.get("dropout") or 0.0)
    width = keys.shape[2]
    out = (weights[..., :width] * factors_B1QN) @ values + weights[..., width:] @ value
    return out.transpose(1, 2).contiguous()


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as one that is added to scores."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def _per_sequence(prefixes: Prefixes, batch: int) -> tuple[Tensor, Tensor]:
    slots = [max(slot, 0) for slot in prefixes.slot_of_row]
    out = []
    for tensor in (prefixes.keys_SKND, prefixes.values_SKND):
        if tensor.shape[0] == 1:
            out.append(tensor.expand(batch, -1, -1, -1))
        else:
            chosen = tensor.index_select(0, torch.tensor(slots, device=tensor.device))
            out.append(chosen.repeat_interleave(batch // len(slots), 0))
    return out[0], out[1]


def _visible(layer: Layer, prefixes: Prefixes, query: Tensor) -> Tensor:
    """Which prefix slots each query sees, (B, 1, Q, N)."""
    rows = prefixes.visible_RN()
    batch, queries = query.shape[0], query.shape[2]
    per_row = batch // rows.shape[0]
    visible = rows.repeat_interleave(per_row, 0)[:, None, None, :].expand(batch, 1, queries, -1)
    if prefixes.late_SN is not None:
        assert layer.now.late_BQ is not None, "a layer with an infix was entered without telling text from answer"
        slots = torch.tensor(prefixes.slot_of_row, device=query.device).clamp_min(0).repeat_interleave(per_row)
        visible = visible & (~prefixes.late_SN[slots][:, None, None] | layer.now.late_BQ[:, None, :, None])
    if layer.window is None or layer.cross:
        return visible
    assert layer.now.positions_BQ is not None, "a windowed layer was entered without positions"
    slot_BN = prefixes.places_RN().repeat_interleave(per_row, 0)
    distance = layer.now.positions_BQ.expand(batch, -1)[:, :, None] - slot_BN[:, None, :]
    return visible & (distance < layer.window)[:, None]


def _sees_all(layer: Layer, call: Call) -> bool:
    """Whether every query sees every own key."""
    return call.mask is None and (not layer.causal or layer.cross or call.query.shape[2] == 1)


def _own_mask(layer: Layer, call: Call) -> Tensor:
    """The mask over the sequence's own keys, (B, heads or 1, Q, T); None is spelled out as the implementation takes it."""
    (batch, _, queries, _), keys = call.query.shape, call.key.shape[2]
    if call.mask is not None:
        return call.mask.expand(batch, -1, -1, -1)[..., :keys]
    ones = torch.ones(queries, keys, dtype=torch.bool, device=call.query.device)
    if layer.causal and not layer.cross and queries > 1:
        ones = ones.tril(keys - queries)
    return ones[None, None].expand(batch, 1, queries, keys)


def _prefix_bias(layer: Layer, bias: Tensor, batch: int, queries: int, width: int, keys: int) -> Tensor:
    """The relative bias of slots -N … -1 before each row's first token, zero in cross-attention; (1 or B, H, Q, N)."""
    if layer.bias_from is None:
        return bias.new_zeros(*bias.shape[:2], queries, width)
    past = keys - queries if layer.causal else 0

    def before(start: int) -> Tensor:
        out: Tensor = layer.bias_from.compute_bias(  # type: ignore[union-attr,operator]
            queries, width, device=bias.device, past_seen_tokens=past + width - start
        )
        return out.to(bias.dtype)

    if not any(layer.now.starts):
        return before(0)
    made = {start: before(start) for start in set(layer.now.starts)}
    return torch.cat([made[start] for start in layer.now.starts]).repeat_interleave(batch // len(layer.now.starts), 0)


def _shares(prefixes: Prefixes, batch: int) -> bool:
    """Whether prefixes are better attended to apart: several sequences share one, or padding them for all would be much."""
    used = Counter(slot for slot in prefixes.slot_of_row if slot >= 0)
    if not used:
        return False
    sequences = batch // len(prefixes.slot_of_row)
    tokens = sum(prefixes.lengths[slot] for slot in used)
    return max(used.values()) * sequences > 1 or batch * prefixes.keys_SKND.shape[2] > MUCH * tokens


def _merged(call: Call, layer: Layer, prefixes: Prefixes) -> Tensor:
    """Attention over own keys and over each prefix apart, joined by log-sum-exp: no prefix is ever expanded to its rows.

    Returns:
        (B, Q, H, D), as the interface has it.
    """
    dtype = autocast_dtype(call.query.device) or call.query.dtype
    query, key, value = (x.to(dtype) for x in (call.query, call.key, call.value))
    scale = call.options.get("scaling") or query.shape[-1] ** -0.5
    groups = query.shape[1] // key.shape[1]
    visible_B1QN = _visible(layer, prefixes, query)
    own_mask = None if _sees_all(layer, call) else _own_mask(layer, call)
    own, own_lse = _with_lse(query, _repeat(key, groups), _repeat(value, groups), own_mask, scale)
    per_row = query.shape[0] // len(prefixes.slot_of_row)
    width = prefixes.keys_SKND.shape[2]
    for slot, length in enumerate(prefixes.lengths):
        rows = [row for row, chosen in enumerate(prefixes.slot_of_row) if chosen == slot]
        if not rows:
            continue
        index = None if len(rows) == len(prefixes.slot_of_row) else _sequences(rows, per_row, query.device)
        keys, values = (t[slot : slot + 1, :, width - length :].to(dtype) for t in (prefixes.keys_SKND, prefixes.values_SKND))
        seen = _take(visible_B1QN[..., width - length :], index)
        out, lse = _shared(_take(query, index), keys, values, None if bool(seen.all()) else seen, groups, scale)
        mine_lse = _take(own_lse, index)
        joint = torch.logaddexp(lse, mine_lse)
        both = out * _weight(lse, joint, dtype) + _take(own, index) * _weight(mine_lse, joint, dtype)
        own, own_lse = (both, joint) if index is None else (own.index_copy(0, index, both), own_lse.index_copy(0, index, joint))
    return own.transpose(1, 2).contiguous()


def _sequences(rows: list[int], per_row: int, device: torch.device) -> Tensor:
    """The sequences of some rows."""
    return torch.tensor([row * per_row + i for row in rows for i in range(per_row)], device=device)


def _take(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x.index_select(0, index)


def _weight(lse: Tensor, joint: Tensor, dtype: torch.dtype) -> Tensor:
    """The share of one part; 0 where neither part sees anything."""
    return torch.exp(lse - joint).nan_to_num(0.0)[..., None].to(dtype)


def _shared(
    query: Tensor, key_1KND: Tensor, value_1KND: Tensor, seen: Tensor | None, groups: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention of all rows over one prefix, with rows and head groups folded into the query axis."""
    batch, heads, queries, width = query.shape
    kv = heads // groups
    folded = query.view(batch, kv, groups, queries, width).permute(1, 0, 2, 3, 4).reshape(1, kv, batch * groups * queries, width)
    mask = None
    if seen is not None:
        mask = seen.expand(batch, groups, queries, -1).reshape(1, 1, batch * groups * queries, -1)
    out, lse = _with_lse(folded, key_1KND, value_1KND, mask, scale)
    out = out.view(kv, batch, groups, queries, width).permute(1, 0, 2, 3, 4).reshape(batch, heads, queries, width)
    return out, lse.view(kv, batch, groups, queries).permute(1, 0, 2, 3).reshape(batch, heads, queries)


def _repeat(x: Tensor, groups: int) -> Tensor:
    return x if groups == 1 else x.repeat_interleave(groups, 1)


def _with_lse(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Attention and the log-sum-exp of its scores, (B, H, Q, D) and (B, H, Q) in float32; 0 and -inf where all is masked."""
    additive, empty = None, None
    if mask is not None:
        boolean = mask.dtype == torch.bool
        additive = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float("-inf")) if boolean else mask
        empty = ~mask.any(-1) if boolean else None
    if query.device.type == "cpu" and key.shape[-1] == value.shape[-1]:
        bias = None if additive is None else additive.to(query.dtype)
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = flash(query, key, value, 0.0, False, attn_mask=bias, scale=scale)
        lse = lse.view(query.shape[:3])
    else:
        scores = (query.float() @ key.float().transpose(-1, -2)) * scale
        scores = scores if additive is None else scores + additive
        lse = scores.logsumexp(-1)
        out = (torch.exp(scores - lse[..., None]).nan_to_num(0.0) @ value.float()).to(query.dtype)
    return out, lse if empty is None else lse.masked_fill(empty, float("-inf"))


def _sdpa(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any) -> Output:
    call = Call(implementation="sdpa", module=module, query=query, key=key, value=value, mask=attention_mask, options=options)
    return _attend(call)


def _eager(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any) -> Output:
    call = Call(implementation="eager", module=module, query=query, key=key, value=value, mask=attention_mask, options=options)
    return _attend(call)


for _name, _function, _mask in (("sdpa", _sdpa, sdpa_mask), ("eager", _eager, eager_mask)):
    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATIONS[_name], _function)
    ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATIONS[_name], _mask)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast computes attention in on a device; None where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def switch(model: nn.Module) -> list[tuple[Any, str]]:
    """Route a model's attention through this file; returns what `restore` needs.

    Raises:
        UnsupportedError: the model uses an implementation without masks that a prefix could extend.
    """
    configs: dict[int, Any] = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    before = [(config, config._attn_implementation_internal) for config in configs.values()]
    for _, implementation in before:
        if implementation not in IMPLEMENTATIONS:
            raise UnsupportedError(
                f"Prefixes need attention by 'sdpa' or 'eager'; this model uses {implementation!r}. "
                "Load it with attn_implementation='sdpa'."
            )
    for config, implementation in before:
        config._attn_implementation_internal = IMPLEMENTATIONS[implementation]
    return before


def restore(before: list[tuple[Any, str]]) -> None:
    """Undo `switch`."""
    for config, implementation in before:
        config._attn_implementation_internal = implementation
