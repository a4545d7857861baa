"""Pfeiffer adapters: h + W_up σ(W_down z + b_down) + b_up, one a block, with h the feed-forward network's output.
Pfeiffer et al. 2020 (MAD-X), arXiv:2005.00052, section 4.1; the placement was found in Pfeiffer et al. 2021
(AdapterFusion), arXiv:2005.00247, appendix A.1.

The network reads z, what h becomes behind the residual add and, in post-norm models (BERT), behind the norm that follows it,
whose weights are the model's own: z = LN(h + residual). Its output is added to h itself; then the model adds the residual and
normalises once more. In pre-norm models there is no such norm, and z = h + residual. AdapterHub does the same.

Shapes: R rows, T tokens, H features, M bottleneck, H // reduction unless it is named.
Start: matrices N(0, 0.02²), biases zero, as in AdapterHub: near the identity. The papers name none.
Trained parameters: the sum of 2 · H · M + M + H over the sites.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator

from lmtailor.base.sites import Site, Sites
from lmtailor.edits.edits import Edits
from lmtailor.methods._bottleneck import Activation, BehindAdd, Bottleneck, check_units, units
from lmtailor.methods.method import Method, Recipe, Start, normal, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class AfterAddEdit(Bottleneck, BehindAdd):
    """h + W_up σ(W_down z + b_down) + b_up, z behind the residual add."""


@dataclass(frozen=True, kw_only=True)
class Pfeiffer(Method):
    """One bottleneck adapter a block, after the feed-forward network."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-4)
    paper: ClassVar[str] = "Pfeiffer et al. 2020, section 4.1"
    formula: ClassVar[str] = "Σ 2 · H · M + M + H, M = bottleneck or H // reduction"
    start: ClassVar[Start] = "near"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"reduction": 16}, {"bottleneck": 5, "activation": "silu"})

    reduction: int = 16
    """The width is divided by it."""
    bottleneck: int | None = None
    """Units; None takes the width // `reduction`."""
    activation: Activation = "relu"
    std: float = 0.02
    """Standard deviation of the start."""
    at: str = "block.*.ffn"

    def __post_init__(self) -> None:
        check_units(self.bottleneck, self.reduction)

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One bottleneck for every sublayer that `at` selects."""
        return Edits(tuple(self._edit(site, rng) for site in sites.select(self.at, "sublayer")))

    def _edit(self, site: Site, rng: Generator | None) -> AfterAddEdit:
        inner = units(site.width, self.bottleneck, self.reduction)
        return AfterAddEdit(
            site=site.name,
            down_MH=normal((inner, site.width), rng, std=self.std),
            down_bias_M=zeros((inner,), rng),
            up_HM=normal((site.width, inner), rng, std=self.std),
            up_bias_H=zeros((site.width,), rng),
            activation=self.activation,
        )
