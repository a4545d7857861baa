"""Lin's adapters: h + W_up ReLU(W_down LN(h)), with h a block's output and a layer norm of the adapter's own.
Lin et al. 2020, arXiv:2004.03829, section 3; Hu et al. 2021 call them AdapterL.

Shapes: R rows, T tokens, H features, M bottleneck.
The paper's equation has no biases; its code has them (`bias=True`), and so has the count of Hu et al. 2021.
Start: gains one, shifts and biases zero, matrices N(0, 0.02²), as in GPT-2: near the identity.
Trained parameters: the sum of 2 · H + 2 · H · M (+ M + H) over the blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from lmtailor.base.sites import Site, Sites
from lmtailor.base.views import NormView
from lmtailor.edits.edit import Context, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import HiddenEdit
from lmtailor.methods._bottleneck import check_units
from lmtailor.methods.method import Method, Recipe, Start, normal, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class NormedEdit(HiddenEdit):
    """A bottleneck network behind a layer norm, with a skip connection. Padded units add nothing."""

    gain_H: Tensor = trained()
    shift_H: Tensor = trained()
    down_MH: Tensor = trained(pad=(0,))
    up_HM: Tensor = trained(pad=(1,))
    down_bias_M: Tensor | None = trained(pad=(0,), optional=True)
    up_bias_H: Tensor | None = trained(optional=True)
    eps: float = 1e-5

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        """h + W_up ReLU(W_down LN(h) + b_down) + b_up."""
        normed_RTH = F.layer_norm(h_RTH, h_RTH.shape[-1:], eps=self.eps)
        z_RTH = torch.addcmul(self.shift_H[:, None], normed_RTH, self.gain_H[:, None])
        inner_RTM = torch.bmm(z_RTH, self.down_MH.transpose(1, 2))
        if self.down_bias_M is not None:
            inner_RTM = inner_RTM + self.down_bias_M[:, None]
        out_RTH = h_RTH + torch.bmm(F.relu(inner_RTM), self.up_HM.transpose(1, 2))
        return out_RTH if self.up_bias_H is None else out_RTH + self.up_bias_H[:, None]


@dataclass(frozen=True, kw_only=True)
class LinAdapter(Method):
    """One adapter with a norm of its own behind every block."""

    recipe: ClassVar[Recipe] = Recipe(lr=6.25e-4)
    paper: ClassVar[str] = "Lin et al. 2020, section 3"
    formula: ClassVar[str] = "Σ 2 · H + 2 · H · bottleneck (+ bottleneck + H)"
    start: ClassVar[Start] = "near"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"bottleneck": 5, "std": 0.01}, {"bottleneck": 3, "bias": True})

    bottleneck: int = 100
    bias: bool = False
    """Biases of both projections, as in the paper's code."""
    std: float = 0.02
    """Standard deviation of the matrices' start."""
    at: str = "block.*"

    def __post_init__(self) -> None:
        check_units(self.bottleneck)

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One network for every block that `at` selects."""
        return Edits(tuple(self._edit(site, rng) for site in sites.select(self.at, "block")))

    def _edit(self, site: Site, rng: Generator | None) -> NormedEdit:
        wide, inner = (site.width,), (self.bottleneck,)
        return NormedEdit(
            site=site.name,
            gain_H=zeros(wide, rng) + 1,
            shift_H=zeros(wide, rng),
            down_MH=normal(inner + wide, rng, std=self.std),
            up_HM=normal(wide + inner, rng, std=self.std),
            down_bias_M=zeros(inner, rng) if self.bias else None,
            up_bias_H=zeros(wide, rng) if self.bias else None,
        )
