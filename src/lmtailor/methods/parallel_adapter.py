"""Parallel adapters: h + s · (W_up σ(W_down x + b_down) + b_up), with x the sublayer's own input.  He et al. 2022,
arXiv:2110.04366, table 1 and section 4.6 (scaled parallel adapter beside the feed-forward network).

In pre-norm models the sublayer's input is the residual stream behind the norm. AdapterHub reads the stream before it
(`reads="residual"`); in post-norm models both are one.

Shapes: R rows, T tokens, H features, M bottleneck, H // reduction unless it is named.
Start: W_down Kaiming-uniform, U[-1/√H, 1/√H], all else zero, as in LoRA: the model is unchanged.
s is fixed at 4, or with scale="learned" one trained number a site that starts at 1, as in the paper's code.
Trained parameters: the sum of 2 · H · M + M + H, and 1 if s is learned, over the sites.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Generator, Tensor

from lmtailor.base.sites import Site, Sites
from lmtailor.base.views import NormView
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import Context, per_row, trained
from lmtailor.edits.edits import Edits
from lmtailor.methods._bottleneck import Activation, Bottleneck, check_units, units
from lmtailor.methods.method import Method, Recipe, Start, uniform, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class ParallelEdit(Bottleneck):
    """A bottleneck network beside a sublayer."""

    needs_entry: ClassVar[bool] = True

    scale: float = per_row(1.0)
    learned_1: Tensor | None = trained(optional=True)
    """A trained factor (1,), in place of `scale`."""
    reads: Literal["input", "residual"] = "input"

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        """h + s · (W_up σ(W_down x + b_down) + b_up)."""
        read_RTH = x_RTH if self.reads == "input" else residual_RTH
        assert read_RTH is not None
        factor = self.scale if self.learned_1 is None else self.learned_1[:, :, None]
        return h_RTH + self.network(read_RTH) * factor


@dataclass(frozen=True, kw_only=True)
class ParallelAdapter(Method):
    """One scaled adapter a block, beside the feed-forward network."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-4)
    paper: ClassVar[str] = "He et al. 2022, section 4.6"
    formula: ClassVar[str] = "Σ 2 · H · M + M + H (+ 1), M = bottleneck or H // reduction"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"reduction": 16},
        {"bottleneck": 5, "scale": "learned", "reads": "residual", "at": "block.*.attn"},
    )

    reduction: int = 2
    """The width is divided by it; the paper's 512 units of 1,024 features."""
    bottleneck: int | None = None
    """Units; None takes the width // `reduction`."""
    activation: Activation = "relu"
    scale: float | Literal["learned"] = 4.0
    reads: Literal["input", "residual"] = "input"
    """What the network reads: the sublayer's input, or the residual stream before the norm (AdapterHub)."""
    at: str = "block.*.ffn"

    def __post_init__(self) -> None:
        check_units(self.bottleneck, self.reduction)
        if isinstance(self.scale, float) and not math.isfinite(self.scale):
            raise InputError(f"scale is {self.scale}; it must be a finite number or 'learned'.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One network for every sublayer that `at` selects."""
        return Edits(tuple(self._edit(site, rng) for site in sites.select(self.at, "sublayer")))

    def _edit(self, site: Site, rng: Generator | None) -> ParallelEdit:
        inner, learned = units(site.width, self.bottleneck, self.reduction), self.scale == "learned"
        return ParallelEdit(
            site=site.name,
            down_MH=uniform((inner, site.width), rng, bound=1 / math.sqrt(site.width)),
            down_bias_M=zeros((inner,), rng),
            up_HM=zeros((site.width, inner), rng),
            up_bias_H=zeros((site.width,), rng),
            activation=self.activation,
            scale=1.0 if isinstance(self.scale, str) else self.scale,
            learned_1=zeros((1,), rng) + 1 if learned else None,
            reads=self.reads,
        )
