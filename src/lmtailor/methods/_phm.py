"""Adapters whose matrices are sums of Kronecker products, W = Σᵢ Aᵢ ⊗ (Sᵢ Tᵢ), with the Aᵢ shared by all of an adapter.

Shapes: R rows, T tokens, H features, M bottleneck, I and O features in and out, N terms of the sum, K rank. A is (N, N, N),
S (N, I / N, K), T (N, K, O / N); y = x W. W is never made: x Sᵢ is a product of x's N parts, and what is left to do with A and T
is one small matrix of N · N · K by O.
"""

from abc import ABC
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lmtailor.base.sites import Site
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import trained
from lmtailor.edits.kinds import HiddenEdit
from lmtailor.methods._bottleneck import ACTIVATIONS, Activation, check_units, units
from lmtailor.methods.method import normal, uniform, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class PHM(HiddenEdit, ABC):
    """An edit with a bottleneck network of such matrices."""

    rule_NNN: Tensor = trained(shared="phm")
    """A, one for both matrices and for all sites."""
    down_left_NIK: Tensor = trained()
    down_right_NKO: Tensor = trained()
    down_bias_M: Tensor = trained()
    up_left_NIK: Tensor = trained()
    up_right_NKO: Tensor = trained()
    up_bias_H: Tensor = trained()
    activation: Activation = "gelu"

    def network(self, z_RTH: Tensor) -> Tensor:
        """σ(z W_down + b_down) W_up + b_up, (R, T, H)."""
        inner_RTM = _times(z_RTH, self.rule_NNN, self.down_left_NIK, self.down_right_NKO, self.down_bias_M)
        inner_RTM = ACTIVATIONS[self.activation](inner_RTM)
        return _times(inner_RTM, self.rule_NNN, self.up_left_NIK, self.up_right_NKO, self.up_bias_H)


@dataclass(frozen=True, kw_only=True)
class PHMShape:
    """What the matrices of an adapter look like."""

    reduction: int
    bottleneck: int | None
    terms: int
    rank: int
    std: float

    def __post_init__(self) -> None:
        check_units(self.bottleneck, self.reduction)
        if self.terms < 1 or self.rank < 1:
            raise InputError(f"terms is {self.terms} and rank is {self.rank}; both must be at least 1.")

    def units(self, width: int) -> int:
        """Units of the bottleneck; where none are named, width // `reduction` rounded up to a multiple of the terms."""
        inner = units(width, self.bottleneck, self.reduction)
        return inner if self.bottleneck is not None else -(-inner // self.terms) * self.terms

    def rule(self, rng: Generator | None) -> Tensor:
        """A at its start."""
        return normal((self.terms,) * 3, rng, std=self.std)

    def tensors(self, site: Site, rng: Generator | None) -> dict[str, Tensor]:
        """All else at its start, for one site.

        Raises:
            InputError: the width or the bottleneck is no multiple of the number of terms, or the rank is above that of a part.
        """
        wide, inner, terms = site.width, self.units(site.width), self.terms
        if wide % terms or inner % terms:
            raise InputError(
                f"A bottleneck of {inner} units at {site.name}, of {wide} features, cannot be cut into {terms} parts. "
                "Choose a bottleneck that is a multiple of terms, and terms that divide the features."
            )
        if self.rank > min(wide, inner) // terms:
            raise InputError(
                f"rank {self.rank} is above that of the parts of {site.name}, {wide // terms} × {inner // terms} matrices. "
                "Take a smaller rank, or a larger bottleneck."
            )
        return {
            "down_left_NIK": self._factor(wide // terms, self.rank, rng),
            "down_right_NKO": self._factor(self.rank, inner // terms, rng),
            "down_bias_M": zeros((inner,), rng),
            "up_left_NIK": self._factor(inner // terms, self.rank, rng),
            "up_right_NKO": self._factor(self.rank, wide // terms, rng),
            "up_bias_H": zeros((wide,), rng),
        }

    def _factor(self, rows: int, columns: int, rng: Generator | None) -> Tensor:
        return uniform((self.terms, rows, columns), rng, bound=(6 / (rows + columns)) ** 0.5)


def _times(x_RTI: Tensor, rule_RNNN: Tensor, left_RNIK: Tensor, right_RNKO: Tensor, bias_RO: Tensor) -> Tensor:
    """x W + b, (R, T, O)."""
    rows, tokens, _ = x_RTI.shape
    terms, part, rank = left_RNIK.shape[1:]
    left_RIX = left_RNIK.transpose(1, 2).reshape(-1, part, terms * rank)
    parts_RXY = torch.bmm(x_RTI.reshape(rows, tokens * terms, part), left_RIX).view(rows, tokens, terms * terms * rank)
    # Row p of A stands before its term i, since x's part p comes first: (R, p, i, k, q, O / N).
    right = rule_RNNN.transpose(1, 2)[:, :, :, None, :, None] * right_RNKO[:, None, :, :, None, :]
    return torch.baddbmm(bias_RO[:, None], parts_RXY, right.reshape(-1, terms * terms * rank, bias_RO.shape[-1]))
