"""A gate before prefixes: a factor of their keys and values that depends on what the attention reads (Mao et al. 2022).

Shapes: B sequences, T tokens, Q queries, S prefixes, N prefix slots, F features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A factor σ(w · x + b) of prefixes' keys and values, from the attention's input x (features F)."""

    weight_SF: Tensor
    bias_S: Tensor
    slots_SN: Tensor
    """The slots that it acts on; the others have the factor 1."""
    pooled: bool
    """Whether it is the mean over the sequence."""

    def factors(self, x_BQF: Tensor, slot_of_row: tuple[int, ...], shares_BT1: Tensor | None) -> Tensor:
        """The factor of every slot for every query, (B, Q or 1, N)."""
        chosen = torch.tensor([max(slot, 0) for slot in slot_of_row], device=x_BQF.device)
        slots_B = chosen.repeat_interleave(x_BQF.shape[0] // len(slot_of_row))
        weight_BF1 = self.weight_SF.to(x_BQF.dtype)[slots_B, :, None]
        gate_BQ1 = torch.sigmoid(torch.baddbmm(self.bias_S.to(x_BQF.dtype)[slots_B, None, None], x_BQF, weight_BF1))
        if self.pooled:
            assert shares_BT1 is not None, "a mean over the sequence was asked for in a stack without shares"
            gate_BQ1 = (gate_BQ1 * shares_BT1).sum(1, keepdim=True)
        return torch.where(self.slots_SN[slots_B][:, None], gate_BQ1, 1.0)
