"""Keys and values that attention sees for some tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.attention import ATTRIBUTE, Layer, restore, switch


def record_key_values(base: Base, ids: Sequence[int], sites: Sequence[str]) -> Tensor:
    """Run tokens through the plain base and keep what its attention layers see, (L, 2, K, N, D).

    Args:
        base: nothing may be attached to it.
        ids: N token ids.
        sites: L self-attention sublayers.

    Raises:
        UnsupportedError: a site is a cross-attention, whose keys come from another sequence, or shares its module.
    """
    chosen = [base.sites[name] for name in sites]
    for site in chosen:
        if site.attention is None or site.attention.cross or site.calls > 1:
            raise UnsupportedError(f"{site.name} has no keys of its own that words could leave there; start it at random.")
    layers = {site.name: Layer(causal=True, cross=False, recording=[]) for site in chosen}
    inputs = {"input_ids": torch.tensor([list(ids)], device=base.device)}
    if base.kind == "encoder-decoder":
        inputs["decoder_input_ids"] = inputs["input_ids"]
    before = switch(base.model)
    try:
        for site in chosen:
            setattr(base.module(site.attention.module), ATTRIBUTE, layers[site.name])  # type: ignore[union-attr]
        with torch.no_grad():
            base.hidden(inputs)
    finally:
        restore(before)
        for site in chosen:
            base.module(site.attention.module).__dict__.pop(ATTRIBUTE, None)  # type: ignore[union-attr]
    pairs = [layer.recording[-1] for layer in layers.values() if layer.recording]
    return torch.stack([torch.stack([keys[0], values[0]]) for keys, values in pairs])
