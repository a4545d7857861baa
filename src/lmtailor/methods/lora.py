"""LoRA: y + s · B A x.  Hu et al. 2021, arXiv:2106.09685, section 4.1; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732.

Shapes: R rows, T tokens, I inputs, O outputs, K rank. s = alpha / K, or alpha / √K with `rslora`.
Start: A Kaiming-uniform, U[-1/√I, 1/√I]; B zero, so that the model is unchanged.
The paper draws A from a normal distribution; its code, and PEFT's, use the Kaiming-uniform start taken here.
Trained parameters: the sum of K · (I + O) over the sites.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from lmtailor.base.sites import Site, Sites
from lmtailor.base.views import LinearView
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import Context, per_row, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import ProjectionEdit
from lmtailor.methods.method import Method, Recipe, Start, uniform, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class LoRAEdit(ProjectionEdit):
    """A low-rank addition to one projection."""

    a_KI: Tensor = trained(pad=(0,))
    b_OK: Tensor = trained(pad=(1,))
    scale: float = per_row()
    dropout: float = 0.0

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """y + s · B A dropout(x)."""
        x_RTI = F.dropout(x_RTI, self.dropout, training=ctx.training)
        h_RTK = torch.bmm(x_RTI, self.a_KI.transpose(1, 2)) * self.scale
        delta_RTO = torch.bmm(h_RTK, self.b_OK.transpose(1, 2))
        return y_RTO + delta_RTO

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W + s · B A."""
        delta = (self.b_OK.double() @ self.a_KI.double()) * self.scale
        return (weight_OI.double() + delta).to(weight_OI.dtype), bias_O


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """Low-rank additions to projections."""

    recipe: ClassVar[Recipe] = Recipe(lr=5e-4, weight_decay=0.01)
    paper: ClassVar[str] = "Hu et al. 2021, section 4.1"
    formula: ClassVar[str] = "Σ rank · (I + O)"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"rank": 2},
        {"rank": 3, "alpha": 4.0, "rslora": True, "at": "block.*.attn.{q,k,v,o}, block.*.ffn.{up,down}"},
    )

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    """Applied to the input of A while training."""
    at: str = "block.*.attn.{q,v}"
    rslora: bool = False
    """Scale by alpha / √rank."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"rank is {self.rank}; LoRA needs at least 1.")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout is {self.dropout}; it must be at least 0 and less than 1.")

    @property
    def scale(self) -> float:
        """s, the factor of B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One addition for every projection that `at` selects."""
        return Edits(tuple(self._edit(site, rng) for site in sites.select(self.at, "projection")))

    def _edit(self, site: Site, rng: Generator | None) -> LoRAEdit:
        assert site.in_width is not None
        if self.rank > min(site.in_width, site.width):
            raise InputError(
                f"rank {self.rank} is above that of {site.name}, a {site.width} × {site.in_width} matrix. Take a smaller rank."
            )
        a_KI = uniform((self.rank, site.in_width), rng, bound=1 / math.sqrt(site.in_width))
        b_OK = zeros((site.width, self.rank), rng)
        return LoRAEdit(site=site.name, a_KI=a_KI, b_OK=b_OK, scale=self.scale, dropout=self.dropout)
