"""Houlsby adapters: h + W_up σ(W_down h + b_down) + b_up, after attention and after the feed-forward network, before the
residual add.  Houlsby et al. 2019, arXiv:1902.00751, section 2.1.

Shapes: R rows, T tokens, H features, M bottleneck.
Start: matrices N(0, 0.01²) cut at two standard deviations, biases zero (section 3.1): near the identity.
Trained parameters: the sum of 2 · H · M + M + H over the sites.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator

from lmtailor.base.sites import Sites
from lmtailor.edits.edits import Edits
from lmtailor.methods._bottleneck import Activation, Bottleneck, OnOutput, check_units
from lmtailor.methods.method import Method, Recipe, Start, normal, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class BottleneckEdit(Bottleneck, OnOutput):
    """h + W_up σ(W_down h + b_down) + b_up."""


@dataclass(frozen=True, kw_only=True)
class Houlsby(Method):
    """Two bottleneck adapters a block."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-3, warmup=0.1)
    paper: ClassVar[str] = "Houlsby et al. 2019, section 2.1"
    formula: ClassVar[str] = "Σ 2 · H · bottleneck + bottleneck + H"
    start: ClassVar[Start] = "near"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"bottleneck": 5}, {"bottleneck": 3, "activation": "tanh"})

    bottleneck: int = 64
    activation: Activation = "gelu"
    std: float = 0.01
    """Standard deviation of the start."""
    at: str = "block.*.{attn,ffn}"

    def __post_init__(self) -> None:
        check_units(self.bottleneck)

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One bottleneck for every sublayer that `at` selects."""
        units = self.bottleneck
        return Edits(
            tuple(
                BottleneckEdit(
                    site=site.name,
                    down_MH=normal((units, site.width), rng, std=self.std, truncate=2.0),
                    down_bias_M=zeros((units,), rng),
                    up_HM=normal((site.width, units), rng, std=self.std, truncate=2.0),
                    up_bias_H=zeros((site.width,), rng),
                    activation=self.activation,
                )
                for site in sites.select(self.at, "sublayer")
            )
        )
