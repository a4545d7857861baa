"""Where each token of a pass stands, for edits that act on some tokens alone.

Shapes: B sequences (rows · beams), T tokens of the pass, N virtual tokens among them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lmtailor.core.errors import UnsupportedError


def places_of(mask_BT: Tensor | None, batch: int, tokens: int, widths: Sequence[int], device: torch.device) -> Tensor:
    """For each token three numbers (B, T, 3), in int64.

    0. its place among the input's own tokens, from 0; -1 for padding and virtual tokens;
    1. how many own tokens its sequence has;
    2. its place among the virtual tokens before its sequence, from 0; -1 for all others.

    Args:
        mask_BT: which tokens are real, virtual ones included; None if all are.
        batch: B.
        tokens: T.
        widths: for each row, virtual tokens in front of it. They are aligned on the right of the longest.
        device: of the states.

    Raises:
        UnsupportedError: the mask has another number of axes.
    """
    if mask_BT is not None and mask_BT.ndim != 2:
        raise UnsupportedError("Edits of some tokens alone need a two-dimensional attention mask, to tell tokens from padding.")
    widest, column_T = max(widths), torch.arange(tokens, device=device)
    real_BT = torch.ones(batch, tokens, dtype=torch.bool, device=device) if mask_BT is None else mask_BT.bool()
    own_BT = real_BT & (column_T >= widest)
    place_BT = torch.where(own_BT, own_BT.cumsum(1) - 1, -1)
    count_BT = own_BT.sum(1, keepdim=True).expand(-1, tokens)
    start_B1 = widest - torch.tensor(widths, device=device).repeat_interleave(batch // len(widths))[:, None]
    virtual_BT = torch.where(column_T < widest, (column_T - start_B1).clamp_min(-1), -1)
    return torch.stack([place_BT, count_BT, virtual_BT], 2)
