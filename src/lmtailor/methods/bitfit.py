"""BitFit: all bias terms, and nothing else.  Ben Zaken et al. 2021, arXiv:2106.10199, section 3.

y + d for a projection, LN(x) + d for a norm: d is the change of the bias, so the start d = 0 leaves the model unchanged.
(Weight decay, which the paper does not use, would pull the bias to the base's value and not to zero.)
`which="query_and_mlp"` is the paper's small variant: b_q and b_m2, the bias of the feed-forward network's up projection
(its equations number the attention's output projection m1).
Trained parameters: the sum of O over the projections with a bias and of H over the norms with one.
Models without biases (Llama) raise, unless `add_missing` gives every projection one that starts at zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Generator, Tensor

from lmtailor.base.sites import Sites
from lmtailor.base.views import LinearView, NormView
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edit import Context, Edit, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import NormEdit, ProjectionEdit
from lmtailor.methods.method import Method, Recipe, Start, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class BiasEdit(ProjectionEdit):
    """A change of a projection's bias."""

    delta_O: Tensor = trained()

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """y + d."""
        return y_RTO + self.delta_O[:, None]

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """b + d."""
        delta = self.delta_O.to(weight_OI.dtype)
        return weight_OI, delta if bias_O is None else bias_O + delta


@dataclass(frozen=True, kw_only=True, eq=False)
class ShiftEdit(NormEdit):
    """A change of a norm's shift."""

    delta_H: Tensor = trained()

    def normed(self, x_RTH: Tensor, y_RTH: Tensor, norm: NormView, ctx: Context) -> Tensor:
        """LN(x) + d."""
        return y_RTH + self.delta_H[:, None]

    def fold(self, gain_H: Tensor, shift_H: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """b + d."""
        delta = self.delta_H.to(gain_H.dtype)
        return gain_H, delta if shift_H is None else shift_H + delta


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """The bias terms."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-3)
    paper: ClassVar[str] = "Ben Zaken et al. 2021, section 3"
    formula: ClassVar[str] = "Σ O + Σ H over biases"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"add_missing": True}, {"which": "query_and_mlp"})

    which: Literal["all", "query_and_mlp"] = "all"
    add_missing: bool = False
    """Give projections without a bias one of zeros. Norms without a shift stay without."""

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One change for every bias."""
        pattern = "block.*.attn.q, block.*.ffn.up" if self.which == "query_and_mlp" else None
        if pattern is not None:
            chosen = list(sites.select(pattern, "projection"))
        else:
            chosen = [
                site
                for site in sites.values()
                if site.kind in ("projection", "norm") and site.part is None and site.name != "lm_head"
            ]
        out: list[Edit] = []
        for site in chosen:
            if site.kind == "norm":
                if sites.norm(site).shift_H is not None:
                    out.append(ShiftEdit(site=site.name, delta_H=zeros((site.width,), rng)))
            elif self.add_missing or sites.linear(site).bias_O is not None:
                out.append(BiasEdit(site=site.name, delta_O=zeros((site.width,), rng)))
        if not out:
            raise UnsupportedError(
                f"{sites.model_type} has no bias terms to train. Set add_missing=true to add biases that start at zero."
            )
        return Edits(tuple(out))
