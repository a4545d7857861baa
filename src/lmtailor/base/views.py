"""Weights as edits see them: (out, in) for every projection, gain and shift for every norm, whatever the module's layout.

Shapes: I inputs, O outputs, H features.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lmtailor.base.slices import Slice


@dataclass(frozen=True)
class LinearView:
    """A projection's weight and bias, read from the module each time, so that a swapped weight is seen.

    `transposed`: the module stores (in, out), as GPT-2's Conv1D does. `part`: only these outputs of a fused projection.
    """

    module: nn.Module
    transposed: bool
    part: Slice | None = None

    @property
    def weight_OI(self) -> Tensor:
        """The weight as (out, in); a view where the layout allows one."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        whole = weight.T if self.transposed else weight
        return whole if self.part is None else self.part.take(whole.T).T

    @property
    def bias_O(self) -> Tensor | None:
        """The bias, or None."""
        bias: Tensor | None = self.module._parameters.get("bias")
        return bias if bias is None or self.part is None else self.part.take(bias)

    def row_norms_O(self) -> Tensor:
        """The Euclidean norm of each output's weights."""
        norms: Tensor = torch.linalg.vector_norm(self.weight_OI.detach().float(), dim=1)
        return norms


@dataclass(frozen=True)
class NormView:
    """A norm: `kind` "layer" (mean removed, has a shift) or "rms"; `unit` is what is added to the stored gain (1 in Gemma)."""

    module: nn.Module
    kind: Literal["layer", "rms"]
    eps: float
    unit: float = 0.0

    @property
    def gain_H(self) -> Tensor:
        """The factor that is applied to each feature."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return weight + self.unit

    @property
    def shift_H(self) -> Tensor | None:
        """What is added to each feature, or None."""
        bias = self.module._parameters.get("bias")
        return bias

    def normalised(self, x: Tensor) -> Tensor:
        """x as it is before gain and shift, computed in float32 and returned in x's dtype."""
        z = x.float()
        if self.kind == "layer":
            z = z - z.mean(-1, keepdim=True)
        return (z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)
