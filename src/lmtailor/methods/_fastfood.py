"""Fastfood: a random matrix that is never written down.  Le et al. 2013, arXiv:1408.3060, section 3.

P = S H G Π H B in blocks of L × L, where L is the power of two from d on; the input is filled up with zeros to L, and what the
blocks give beyond n numbers is cut off. H is the Hadamard matrix, B has random signs, Π permutes, G is normal, each drawn anew
for every block. S = 1 / (‖G‖ · √unit) gives the columns over `unit` rows the length 1 (exactly, over whole blocks).
Applying P takes O(n log d) time; drawing it again takes its seed.
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lmtailor.core.rng import derive

RADIX = 64
"""Width of the dense Hadamard matrices that the transform is made of: two or three large products instead of many small sums."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The random numbers of a projection: C blocks of length L. They take 9 bytes for each number of the output."""

    signs_CL: Tensor
    """The diagonal of B, int8."""
    order_CL: Tensor
    """Π: where in the flattened (C, L) each number is taken from, int32."""
    gains_CL: Tensor
    """The diagonal of S G."""


@dataclass(frozen=True, kw_only=True)
class Fastfood:
    """A projection from d to n numbers."""

    seed: int
    name: str
    """Projections of one seed differ by their names."""
    d: int
    n: int
    unit: int
    """Over how many rows a column has length 1."""
    _drawn: dict[torch.device, Factors] = field(default_factory=dict, compare=False, repr=False)

    def factors(self, device: torch.device) -> Factors:
        """The random numbers, drawn once.

        NumPy's RandomState is frozen: it gives the same numbers in every later version, so an adapter stays readable.
        """
        if device not in self._drawn:
            word = derive(self.seed, "fastfood", self.name)
            random = np.random.RandomState([word & 0xFFFFFFFF, word >> 32])
            length = 1 << max(0, (self.d - 1).bit_length())
            count = -(-self.n // length)
            signs = random.randint(2, size=(count, length), dtype=np.int8) * 2 - 1
            order = np.stack([random.permutation(length) for _ in range(count)]) + length * np.arange(count)[:, None]
            normal = random.standard_normal((count, length))
            gains = normal / np.sqrt((normal**2).sum(1, keepdims=True) * self.unit)
            self._drawn[device] = Factors(
                signs_CL=torch.from_numpy(signs.astype(np.int8)).to(device),
                order_CL=torch.from_numpy(order.astype(np.int32)).to(device),
                gains_CL=torch.from_numpy(gains.astype(np.float32)).to(device),
            )
        return self._drawn[device]

    def __call__(self, x_d: Tensor) -> Tensor:
        """P x, (n,), in float32 whatever the autocast."""
        factors = self.factors(x_d.device)
        count, length = factors.signs_CL.shape
        with torch.autocast(x_d.device.type, enabled=False):
            padded_L = torch.nn.functional.pad(x_d.float(), (0, length - self.d))
            mixed_CL = walsh_hadamard(factors.signs_CL * padded_L)
            permuted_CL = mixed_CL.flatten().index_select(0, factors.order_CL.flatten()).view(count, length)
            return walsh_hadamard(permuted_CL * factors.gains_CL).flatten()[: self.n]


def walsh_hadamard(x_CL: Tensor) -> Tensor:
    """H x for every row, L a power of two, not normalised.

    H of L = r₁ · r₂ · … is the Kronecker product of those of r₁, r₂, …: each step transforms the last axis of that length and
    moves it to the front, so that after the last one all are where they were.
    """
    count, length = x_CL.shape
    left = length
    while left > 1:
        width = min(RADIX, left)
        x_CL = (x_CL.reshape(count, -1, width) @ _hadamard(width).to(x_CL)).transpose(1, 2).reshape(count, length)
        left //= width
    return x_CL


@cache
def _hadamard(width: int) -> Tensor:
    """Sylvester's matrix of a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < width:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix
