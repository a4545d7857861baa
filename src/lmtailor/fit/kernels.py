"""How attention is computed in a fit on a CPU in bfloat16.

The backward of torch's fused attention takes several times as long there as products and a softmax, which short sequences have
the memory for. So they run by transformers' "eager" attention, whose softmax is in float32.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from lmtailor.base.base import Base

SHORT = 256
"""Tokens up to which attention in bfloat16 is not fused."""


@contextlib.contextmanager
def fast_kernels(base: Base, *, lengths: Iterable[int], bfloat16: bool) -> Iterator[None]:
    """Inside, a base's passes are computed the faster way. Enter it before anything is attached.

    Args:
        base: the model; off the CPU nothing changes.
        lengths: tokens of each sequence that will come. They are asked for only where something depends on them.
        bfloat16: whether passes run under autocast.
    """
    bfloat16 = bfloat16 or base.dtype == torch.bfloat16
    chosen: list[Any] = []
    if base.device.type == "cpu" and bfloat16 and all(length <= SHORT for length in lengths):
        configs: dict[int, Any] = {id(m.config): m.config for m in base.model.modules() if isinstance(m, PreTrainedModel)}
        chosen = [config for config in configs.values() if config._attn_implementation_internal == "sdpa"]
    for config in chosen:
        config._attn_implementation_internal = "eager"
    try:
        yield
    finally:
        for config in chosen:
            config._attn_implementation_internal = "sdpa"
