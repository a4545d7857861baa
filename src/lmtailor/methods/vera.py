"""VeRA: y + b ⊙ B (d ⊙ A x).  Kopiczko et al. 2023, arXiv:2310.11454, section 3.

A and B are random, frozen and shared by all sites; only the vectors b and d are trained.
Shapes: R rows, T tokens, K rank, I inputs, O outputs of a site; J and P the largest of them among the sites. A is (K, J), B is
(P, K), and a site of smaller widths takes the first columns of A and the first rows of B, as PEFT does; the paper's sites are
all of one shape.
Start: A and B Kaiming-uniform, U[-√(6/J), √(6/J)] and U[-√(6/K), √(6/K)], a function of `projection_seed` alone (and the same
numbers as PEFT's `projection_prng_key`); b zero, so that the model is unchanged; d = d_initial (the paper's 0.1).
Trained parameters: the sum of O + K over the sites. A and B are stored with the adapter once.
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
from lmtailor.edits.edit import Context, fixed, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import ProjectionEdit
from lmtailor.methods.method import Method, Recipe, Start, uniform, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class VeRAEdit(ProjectionEdit):
    """Trained scales of a shared random map."""

    d_K: Tensor = trained(pad=(0,))
    b_O: Tensor = trained()
    a_KJ: Tensor = fixed(pad=(0,), shared="vera")
    b_PK: Tensor = fixed(pad=(1,), shared="vera")
    dropout: float = 0.0

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """y + b ⊙ B (d ⊙ A dropout(x))."""
        a_RKI, b_ROK = self.a_KJ[:, :, : x_RTI.shape[-1]], self.b_PK[:, : y_RTO.shape[-1]]
        h_RTK = torch.bmm(F.dropout(x_RTI, self.dropout, training=ctx.training), a_RKI.transpose(1, 2)) * self.d_K[:, None]
        return torch.addcmul(y_RTO, torch.bmm(h_RTK, b_ROK.transpose(1, 2)), self.b_O[:, None])

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W + diag(b) B diag(d) A."""
        outputs, inputs = weight_OI.shape
        a_KI, b_OK = self.a_KJ[:, :inputs].double(), self.b_PK[:outputs].double()
        delta = self.b_O.double()[:, None] * (b_OK @ (self.d_K.double()[:, None] * a_KI))
        return (weight_OI.double() + delta).to(weight_OI.dtype), bias_O


@dataclass(frozen=True, kw_only=True)
class VeRA(Method):
    """Vectors that scale a shared random low-rank addition."""

    recipe: ClassVar[Recipe] = Recipe(lr=4e-3)
    paper: ClassVar[str] = "Kopiczko et al. 2023, section 3"
    formula: ClassVar[str] = "Σ O + rank"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"rank": 5}, {"rank": 4, "at": "block.*.attn.o, block.*.ffn.{up,down}"})

    rank: int = 256
    """K. It may be above the matrices' rank: the paper takes up to 1,024."""
    d_initial: float = 0.1
    dropout: float = 0.0
    """Applied to the input of A while training."""
    projection_seed: int = 0
    """What A and B are a function of, besides the widths; not the seed of the fit."""
    at: str = "block.*.attn.{q,v}"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"rank is {self.rank}; VeRA needs at least 1.")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout is {self.dropout}; it must be at least 0 and less than 1.")
        if not 0 <= self.projection_seed < 2**63:
            raise InputError(f"projection_seed is {self.projection_seed}; it must be at least 0 and less than 2^63.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One pair of vectors for every projection that `at` selects."""
        chosen = sites.select(self.at, "projection")
        a_KJ, b_PK = self._projection(chosen, memory=rng is not None)
        return Edits(tuple(self._edit(site, a_KJ, b_PK, rng) for site in chosen))

    def _projection(self, chosen: tuple[Site, ...], *, memory: bool) -> tuple[Tensor, Tensor]:
        """A and B, drawn in this order from one generator, as PEFT draws them."""
        inputs, outputs = max(site.in_width or 0 for site in chosen), max(site.width for site in chosen)
        draw = torch.Generator().manual_seed(self.projection_seed) if memory else None
        a_KJ = uniform((self.rank, inputs), draw, bound=math.sqrt(6 / inputs))
        return a_KJ, uniform((outputs, self.rank), draw, bound=math.sqrt(6 / self.rank))

    def _edit(self, site: Site, a_KJ: Tensor, b_PK: Tensor, rng: Generator | None) -> VeRAEdit:
        return VeRAEdit(
            site=site.name,
            d_K=zeros((self.rank,), rng) + self.d_initial,
            b_O=zeros((site.width,), rng),
            a_KJ=a_KJ,
            b_PK=b_PK,
            dropout=self.dropout,
        )
