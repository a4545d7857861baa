"""The reference for prefixes: the plain model on a longer input, whose first keys and values are overwritten in every attention.

A prefix of n tokens is the same as n tokens of anything before the input, if what they leave in each attention is replaced. The
plain model then does positions, windows, masks and position biases by itself.

Shapes: K key/value heads, N prefix tokens, D features of a head.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lmtailor.base.base import Base
from lmtailor.base.sites import Site

NAME = "overwritten"


def logits_after(base: Base, inputs: Mapping[str, Tensor], pairs: Mapping[str, Tensor], length: int) -> Tensor:
    """The plain model's logits on the input behind `length` tokens with these keys and values.

    Args:
        base: the model.
        inputs: a batch, padded on the right or not at all.
        pairs: attention site → keys and values (2, K, N, D). An attention without them sees no token before the input.
        length: of the prefix (tokens).
    """
    longer = {}
    for name, value in inputs.items():
        filler = 1 if name.endswith("mask") else 9  # any token but padding
        longer[name] = F.pad(value, (length, 0), value=filler)
    with _overwritten(base, pairs, length):
        out: Tensor = base.model(**longer, use_cache=False).logits if base.kind != "encoder" else base.model(**longer).logits
    return out[:, length:]


@contextmanager
def _overwritten(base: Base, pairs: Mapping[str, Tensor], length: int) -> Iterator[None]:
    turns: dict[nn.Module, list[Site]] = {}
    for site in base.sites.values():
        if site.attention is not None:
            turns.setdefault(base.module(site.attention.module), []).append(site)
    calls = dict.fromkeys(turns, 0)
    causal = {stack.name: stack.causal for stack in base.stacks}

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any) -> Any:
        site = turns[module][calls[module] % len(turns[module])]
        calls[module] += 1
        assert site.attention is not None
        if site.name in pairs:
            own = pairs[site.name][:, None].expand(-1, len(key), -1, -1, -1)
            key, value = (torch.cat([prefix, x[:, :, length:]], 2) for prefix, x in zip(own, (key, value), strict=True))
        else:
            if mask is None and query.shape[2] > 1 and causal[site.stack] and not site.attention.cross:
                mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()[None, None]
            key, value = key[:, :, length:], value[:, :, length:]
            mask = None if mask is None else mask[..., length:]
            bias = options.get("position_bias")
            options["position_bias"] = None if bias is None else bias[..., length:]
        file = sys.modules[type(module).__module__]
        inner = file.eager_attention_forward if implementation == "eager" else ALL_ATTENTION_FUNCTIONS[implementation]
        return inner(module, query, key, value, mask, **options)

    configs = {id(m.config): m.config for m in base.model.modules() if isinstance(m, PreTrainedModel)}
    (implementation,) = {config._attn_implementation_internal for config in configs.values()}
    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask if implementation == "eager" else sdpa_mask)
    try:
        for config in configs.values():
            config._attn_implementation_internal = NAME
        yield
    finally:
        for config in configs.values():
            config._attn_implementation_internal = implementation
