"""Parts of fused projections."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Features of a fused projection that form one part: `count` runs of `length`, `stride` apart, from `offset`."""

    offset: int
    length: int
    stride: int
    count: int = 1

    @property
    def width(self) -> int:
        """Number of features in the part."""
        return self.length * self.count

    def take(self, y: Tensor) -> Tensor:
        """The part of (…, O) features as (…, width): a view where the runs are one, else a copy."""
        if self.count == 1:
            return y[..., self.offset : self.offset + self.length]
        runs = y.reshape(*y.shape[:-1], self.count, self.stride)
        return runs[..., self.offset : self.offset + self.length].flatten(-2)

    def put(self, y: Tensor, part: Tensor) -> Tensor:
        """A copy of (…, O) features in which the part is replaced by (…, width)."""
        out = y.clone(memory_format=torch.contiguous_format)
        if self.count == 1:
            out[..., self.offset : self.offset + self.length] = part
        else:
            runs = out.view(*y.shape[:-1], self.count, self.stride)
            runs[..., self.offset : self.offset + self.length] = part.reshape(*part.shape[:-1], self.count, self.length)
        return out

    def rows(self) -> Tensor:
        """The indices of the part's features in the fused projection's output (width,)."""
        starts = torch.arange(self.count)[:, None] * self.stride + self.offset
        return (starts + torch.arange(self.length)[None]).flatten()
