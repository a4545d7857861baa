"""IA3: l_k ⊙ K, l_v ⊙ V in every attention, and W_down (l_ff ⊙ σ(W_up x)) in every feed-forward network.
Liu et al. 2022, arXiv:2205.05638, section 3.3.

Shapes: R rows, T tokens, I inputs, O outputs. K and V are scaled with their biases; a gated network is scaled after its gate, so
that l_ff is on the input of the down projection in all networks. In fused projections the parts k and v are scaled, q is not.
In encoder-decoders the attention over the encoder's output is scaled too.
Start: ones, so that the model is unchanged.
Trained parameters: the sum of O over the scaled outputs and of I over the scaled inputs.
The recipe is the paper's: Adafactor, lr 3e-3, 60 of 1,000 steps of warm-up, linear decay.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator, Tensor

from lmtailor.base.sites import Site, Sites
from lmtailor.base.views import LinearView
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.edit import Context, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import ProjectionEdit
from lmtailor.methods.method import Method, Recipe, Start, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputScale(ProjectionEdit):
    """A factor of each output."""

    scale_O: Tensor = trained()

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """l ⊙ y."""
        return y_RTO * self.scale_O[:, None]

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """diag(l) W and l ⊙ b."""
        scale = self.scale_O.to(weight_OI.dtype)
        return weight_OI * scale[:, None], None if bias_O is None else bias_O * scale


@dataclass(frozen=True, kw_only=True, eq=False)
class InputScale(ProjectionEdit):
    """A factor of each input."""

    changes_input: ClassVar[bool] = True
    changes_output: ClassVar[bool] = False

    scale_I: Tensor = trained()

    def input(self, x_RTI: Tensor, ctx: Context) -> Tensor:
        """l ⊙ x."""
        return x_RTI * self.scale_I[:, None]

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """y."""
        return y_RTO

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W diag(l)."""
        return weight_OI * self.scale_I.to(weight_OI.dtype), bias_O


@dataclass(frozen=True, kw_only=True)
class IA3(Method):
    """Factors of keys, values and the inner features of feed-forward networks."""

    recipe: ClassVar[Recipe] = Recipe(lr=3e-3, optimizer="adafactor")
    paper: ClassVar[str] = "Liu et al. 2022, section 3.3"
    formula: ClassVar[str] = "Σ O over at + Σ I over at_inputs"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"at": "block.*.attn.{q,o}", "at_inputs": ""})

    at: str = "block.*.{attn,cross}.{k,v}"
    """Projections whose output is scaled; empty for none."""
    at_inputs: str = "block.*.ffn.down"
    """Projections whose input is scaled; empty for none."""

    def __post_init__(self) -> None:
        if not (self.at or self.at_inputs):
            raise InputError("at and at_inputs are both empty; IA3 needs projections to scale.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One vector for every projection that a pattern selects."""
        chosen = sites.select(self.at, "projection") if self.at else ()
        outputs = [OutputScale(site=site.name, scale_O=zeros((site.width,), rng) + 1) for site in chosen]
        chosen = sites.select(self.at_inputs, "projection") if self.at_inputs else ()
        return Edits((*outputs, *(self._of_input(site, sites, rng) for site in chosen)))

    def _of_input(self, site: Site, sites: Sites, rng: Generator | None) -> InputScale:
        if site.part is not None:
            raise UnsupportedError(
                f"{site.name} of {sites.model_type} is part of the fused {site.fused}, whose parts share one input. "
                f"Scale the input of {site.fused}."
            )
        assert site.in_width is not None
        return InputScale(site=site.name, scale_I=zeros((site.in_width,), rng) + 1)
