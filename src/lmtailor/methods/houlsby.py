"""Houlsby adapters: h + W_up σ(W_down h + b_down) + b_up, after attention and after the feed-forward network, before the
residual add.  Houlsby et al. 2019, arXiv:1902.00751, section 2.1.

Shapes: R rows, T tokens, H features, M bottleneck.
Start: matrices N(0, 0.01²) cut at two standard deviations, biases zero (section 3.1): near the identity.
Trained parameters: the sum of 2 · H · M + M + H over the sites.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from lmtailor.base.sites import Sites
from lmtailor.base.views import NormView
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import Context, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import HiddenEdit
from lmtailor.methods.method import Method, Recipe, Start, normal, zeros

Activation = Literal["gelu", "relu", "tanh", "silu"]
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "tanh": torch.tanh, "silu": F.silu}


@dataclass(frozen=True, kw_only=True, eq=False)
class BottleneckEdit(HiddenEdit):
    """A bottleneck network with a skip connection. Padded units have zero weights in and out, so they add nothing."""

    down_MH: Tensor = trained(pad=(0,))
    down_bias_M: Tensor = trained(pad=(0,))
    up_HM: Tensor = trained(pad=(1,))
    up_bias_H: Tensor = trained()
    activation: Activation = "gelu"

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        """h + W_up σ(W_down h + b_down) + b_up."""
        inner_RTM = torch.bmm(h_RTH, self.down_MH.transpose(1, 2)) + self.down_bias_M[:, None]
        inner_RTM = _ACTIVATIONS[self.activation](inner_RTM)
        return h_RTH + torch.bmm(inner_RTM, self.up_HM.transpose(1, 2)) + self.up_bias_H[:, None]


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
        if self.bottleneck < 1:
            raise InputError(f"bottleneck is {self.bottleneck}; an adapter needs at least 1 unit.")

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
