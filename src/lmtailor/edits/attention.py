"""Attention with keys and values that stand before the sequence's own.

A function for each attention implementation is registered with transformers' attention interface (`lmtailor_sdpa`,
`lmtailor_eager`) together with its mask function; without the latter, masks would arrive as None. A module that has
a `Layer` in its `_lmtailor_layer` attribute is served by it, every other one by the implementation itself.

Prefix slots are aligned on the right: slot j of a prefix of n tokens padded to N stands at position n - N + j of the
prefix, and at j - N seen from the first token of the input, in every row.

Shapes: B sequences (rows · beams), S prefixes, H query heads, K key/value heads, Q queries, T own keys, N prefix slots, D features.
"""

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lmtailor.core.errors import UnsupportedError

ATTRIBUTE = "_lmtailor_layer"
IMPLEMENTATIONS = {"sdpa": "lmtailor_sdpa", "eager": "lmtailor_eager"}


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    """The prefixes of one layer, padded on the left to a common length."""

    keys_SKND: Tensor
    values_SKND: Tensor
    lengths: tuple[int, ...]
    """Tokens of each prefix."""
    slot_of_row: tuple[int, ...]
    """For each row its prefix, or -1."""

    def visible_RN(self) -> Tensor:
        """Which slots are real for each row."""
        width = self.keys_SKND.shape[2]
        counts = [self.lengths[slot] if slot >= 0 else 0 for slot in self.slot_of_row]
        device = self.keys_SKND.device
        return torch.arange(width, device=device)[None] >= width - torch.tensor(counts, device=device)[:, None]


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What a layer knows of one pass through its stack."""

    prefixes: Prefixes | None = None
    positions_BQ: Tensor | None = None
    """Positions of the queries, where a window needs them."""
    starts: tuple[int, ...] = ()
    """For each row the index of its first token, where masked slots of longer prompts stand before it; () if all begin at 0."""


@dataclass
class Layer:
    """One attention module while attached."""

    causal: bool
    cross: bool
    window: int | None = None
    bias_from: nn.Module | None = None
    """Where a relative position bias is computed (T5)."""
    recording: list[tuple[Tensor, Tensor]] | None = None
    """Where to put keys and values as attention sees them."""
    now: Pass = Pass()


def _inner(module: nn.Module, implementation: str) -> Any:
    if implementation == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[attr-defined]
    return ALL_ATTENTION_FUNCTIONS[implementation]


def _attend(
    implementation: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    layer: Layer | None = getattr(module, ATTRIBUTE, None)
    inner = _inner(module, implementation)
    if layer is not None and layer.recording is not None:
        layer.recording.append((key, value))
    if layer is None or layer.now.prefixes is None:
        out: tuple[Tensor, Tensor | None] = inner(module, query, key, value, mask, **kwargs)
        return out
    visible_B1QN = _visible(layer, query)
    plain = kwargs.get("position_bias") is None and kwargs.get("softcap") is None and not kwargs.get("dropout")
    if implementation == "sdpa" and plain and not torch.is_grad_enabled() and _shares(layer.now.prefixes, query.shape[0]):
        scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
        own_mask = None if _simply_causal(layer, mask, query, key) else _own_mask(layer, mask, query, key)
        dtype = autocast_dtype(query.device) or query.dtype
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        return _merged(layer.now.prefixes, query, key, value, own_mask, visible_B1QN, scale).transpose(1, 2).contiguous(), None
    return _concatenated(layer, inner, implementation, module, query, key, value, mask, visible_B1QN, kwargs)


def _concatenated(
    layer: Layer,
    inner: Any,
    implementation: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    visible_B1QN: Tensor,
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """The implementation itself, on prefix and own keys in one row: for training, short prefixes, softcap and position bias."""
    assert layer.now.prefixes is not None
    keys_BKND, values_BKND = _per_sequence(layer.now.prefixes, query.shape[0])
    own = _own_mask(layer, mask, query, key)
    if own.dtype != torch.bool:
        lowest = torch.finfo(own.dtype).min
        visible_B1QN = torch.zeros(visible_B1QN.shape, dtype=own.dtype, device=own.device).masked_fill(~visible_B1QN, lowest)
    whole = torch.cat([visible_B1QN, own], -1)
    if implementation == "eager" and whole.dtype == torch.bool:
        whole = torch.zeros(whole.shape, dtype=query.dtype, device=query.device).masked_fill(~whole, torch.finfo(query.dtype).min)
    bias = kwargs.get("position_bias")
    if bias is not None:
        extra = _prefix_bias(layer, bias, query.shape[0], query.shape[2], keys_BKND.shape[2], key.shape[2])
        own_bias = bias[..., : key.shape[2]].expand(extra.shape[0], -1, -1, -1)
        kwargs = {**kwargs, "position_bias": torch.cat([extra, own_bias], -1)}
    keys = torch.cat([keys_BKND.to(key.dtype), key], 2)
    values = torch.cat([values_BKND.to(value.dtype), value], 2)
    out: tuple[Tensor, Tensor | None] = inner(module, query, keys, values, whole, **kwargs)
    return out


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


def _visible(layer: Layer, query: Tensor) -> Tensor:
    """Which prefix slots each query sees, (B, 1, Q, N)."""
    assert layer.now.prefixes is not None
    rows = layer.now.prefixes.visible_RN()
    batch, queries = query.shape[0], query.shape[2]
    visible = rows.repeat_interleave(batch // rows.shape[0], 0)[:, None, None, :].expand(batch, 1, queries, -1)
    if layer.window is None or layer.cross:
        return visible
    assert layer.now.positions_BQ is not None, "a windowed layer was entered without positions"
    width = rows.shape[1]
    start_R = (
        torch.tensor(
            [layer.now.prefixes.lengths[s] if s >= 0 else 0 for s in layer.now.prefixes.slot_of_row], device=query.device
        )
        - width
    )
    slot_RN = torch.arange(width, device=query.device)[None] + start_R[:, None]
    slot_BN = slot_RN.repeat_interleave(batch // rows.shape[0], 0)
    distance = layer.now.positions_BQ.expand(batch, -1)[:, :, None] - slot_BN[:, None, :]
    return visible & (distance < layer.window)[:, None]


def _simply_causal(layer: Layer, mask: Tensor | None, query: Tensor, key: Tensor) -> bool:
    return mask is None and (not layer.causal or layer.cross or query.shape[2] == 1)


def _own_mask(layer: Layer, mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    """The mask over the sequence's own keys, (B, heads or 1, Q, T): what the implementation would have done with None spelled out."""
    batch, queries, keys = query.shape[0], query.shape[2], key.shape[2]
    if mask is not None:
        return mask.expand(batch, -1, -1, -1)[..., :keys]
    ones = torch.ones(queries, keys, dtype=torch.bool, device=query.device)
    if layer.causal and not layer.cross and queries > 1:
        ones = ones.tril(keys - queries)
    return ones[None, None].expand(batch, 1, queries, keys)


def _prefix_bias(layer: Layer, bias: Tensor, batch: int, queries: int, width: int, keys: int) -> Tensor:
    """The relative bias of slots at positions -N … -1 before each row's first token, zero in cross-attention; (1 or B, H, Q, N)."""
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
    used = {slot for slot in prefixes.slot_of_row if slot >= 0}
    return batch > len(used)


def _merged(
    prefixes: Prefixes, query: Tensor, key: Tensor, value: Tensor, own_mask: Tensor | None, visible_B1QN: Tensor, scale: float
) -> Tensor:
    """Attention over own keys and over each prefix apart, joined by log-sum-exp: no prefix is ever expanded to its rows."""
    groups = query.shape[1] // key.shape[1]
    own, own_lse = _with_lse(query, _repeat(key, groups), _repeat(value, groups), own_mask, scale)
    per_row = query.shape[0] // len(prefixes.slot_of_row)
    width = prefixes.keys_SKND.shape[2]
    for slot, length in enumerate(prefixes.lengths):
        rows = [row for row, chosen in enumerate(prefixes.slot_of_row) if chosen == slot]
        if not rows or length == 0:
            continue
        whole = len(rows) == len(prefixes.slot_of_row)
        index = (
            torch.tensor(rows, device=query.device)[:, None] * per_row + torch.arange(per_row, device=query.device)
        ).flatten()
        part = query if whole else query.index_select(0, index)
        keys, values = (
            t[slot : slot + 1, :, width - length :].to(query.dtype) for t in (prefixes.keys_SKND, prefixes.values_SKND)
        )
        seen = visible_B1QN[..., width - length :]
        seen = seen if whole else seen.index_select(0, index)
        out, lse = _shared(part, keys, values, None if bool(seen.all()) else seen, groups, scale)
        mine, mine_lse = (own, own_lse) if whole else (own.index_select(0, index), own_lse.index_select(0, index))
        joint = torch.logaddexp(lse, mine_lse)
        both = out * _weight(lse, joint, out.dtype) + mine * _weight(mine_lse, joint, out.dtype)
        own, own_lse = (both, joint) if whole else (own.index_copy(0, index, both), own_lse.index_copy(0, index, joint))
    return own


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
        additive = (
            mask if mask.dtype != torch.bool else torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float("-inf"))
        )
        empty = ~mask.any(-1) if mask.dtype == torch.bool else None
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


def _sdpa(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any) -> Any:
    return _attend("sdpa", module, query, key, value, attention_mask, **kwargs)


def _eager(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any) -> Any:
    return _attend("eager", module, query, key, value, attention_mask, **kwargs)


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
    configs = {
        id(m.config): m.config for m in model.modules() if isinstance(getattr(m, "config", None), object) and _has_switch(m)
    }
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


def _has_switch(module: nn.Module) -> bool:
    return hasattr(getattr(module, "config", None), "_attn_implementation_internal")
