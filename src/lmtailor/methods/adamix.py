"""AdaMix: C copies of an inner method's projections down and up; each pass of training takes copy i of down and copy j of up,
drawn anew for every site.  Wang et al. 2022, arXiv:2205.12410, section 3.

Each batch is run twice with two draws, and ½(KL(p‖q) + KL(q‖p)) of the two answers is added to the loss (section 3.2). At the
end, and in evaluation, the copies are averaged into one plain adapter of the inner method (section 3.3), as which it is stored.

Which projections are routed: equation 3 routes both, which is the default here. Section 3.4 lets the copies share one of the two;
the authors' script for GLUE shares up (`share="up"`). A bias goes with its matrix; for LoRA down is A and up is B.
Start: each copy at a start of its own, drawn as the inner method's. (In the authors' code the copies of LoRA's A start equal.)
Trained parameters: those of the inner method, C times for what is not shared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from lmtailor.base.sites import Sites
from lmtailor.base.views import LinearView, NormView
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.core.rng import derive
from lmtailor.edits.edit import Context, Edit, per_row, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import HiddenEdit, ProjectionEdit
from lmtailor.methods._bottleneck import Activation, Bottleneck
from lmtailor.methods.houlsby import BottleneckEdit, Houlsby
from lmtailor.methods.lora import LoRA, LoRAEdit
from lmtailor.methods.method import Finishes, Method, Recipe, Start
from lmtailor.methods.pfeiffer import AfterAddEdit, Pfeiffer

_INNER: Mapping[str, type[Bottleneck]] = {"houlsby": BottleneckEdit, "pfeiffer": AfterAddEdit}
Share = Literal["none", "down", "up"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MixedBottleneck(HiddenEdit):
    """Copies of a bottleneck network."""

    needs_entry: ClassVar[bool] = True

    down_CMH: Tensor = trained(pad=(1,))
    down_bias_CM: Tensor = trained(pad=(1,))
    up_CHM: Tensor = trained(pad=(2,))
    up_bias_CH: Tensor = trained()
    activation: Activation
    place: Literal["houlsby", "pfeiffer"]

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        """What the inner edit makes of h with the copies of this pass."""
        down_CMH, up_CHM = one_each((self.down_CMH, self.down_bias_CM), (self.up_CHM, self.up_bias_CH), self.site, ctx)
        return self.inner(down_CMH, up_CHM).hidden(x_RTH, h_RTH, residual_RTH, norm, ctx)

    def inner(self, down: tuple[Tensor, ...], up: tuple[Tensor, ...]) -> Bottleneck:
        """The plain edit with these matrices and biases."""
        return _INNER[self.place](
            site=self.site,
            down_MH=down[0],
            down_bias_M=down[1],
            up_HM=up[0],
            up_bias_H=up[1],
            activation=self.activation,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class MixedLoRA(ProjectionEdit):
    """Copies of a low-rank addition."""

    a_CKI: Tensor = trained(pad=(1,))
    b_COK: Tensor = trained(pad=(2,))
    scale: float = per_row()
    dropout: float = 0.0

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """y + s · B A dropout(x) with the copies of this pass."""
        (a_RKI,), (b_ROK,) = one_each((self.a_CKI,), (self.b_COK,), self.site, ctx)
        return self.inner(a_RKI, b_ROK).output(x_RTI, y_RTO, lin, ctx)

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W + s · B A of the averaged copies."""
        return self.inner(self.a_CKI.mean(0), self.b_COK.mean(0)).fold(weight_OI, bias_O)

    def inner(self, a_KI: Tensor, b_OK: Tensor) -> LoRAEdit:
        """The plain edit with these matrices."""
        return LoRAEdit(site=self.site, a_KI=a_KI, b_OK=b_OK, scale=self.scale, dropout=self.dropout)


def one_each(
    down: tuple[Tensor, ...], up: tuple[Tensor, ...], site: str, ctx: Context
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """One copy of stacked tensors (R, C, …) of each side, drawn; or the average of the copies where nothing is drawn."""
    if ctx.draw is None:
        return tuple(tensor.mean(1) for tensor in down), tuple(tensor.mean(1) for tensor in up)
    number = derive(ctx.draw, site)
    i, j = number % down[0].shape[1], number // down[0].shape[1] % up[0].shape[1]
    return tuple(tensor[:, i] for tensor in down), tuple(tensor[:, j] for tensor in up)


@dataclass(frozen=True, kw_only=True)
class AdaMix(Method, Finishes):
    """A mixture of copies of an inner method, averaged at the end."""

    recipe: ClassVar[Recipe] = Recipe(lr=4e-4, weight_decay=0.1)
    paper: ClassVar[str] = "Wang et al. 2022, section 3"
    formula: ClassVar[str] = "those of inner, copies times what is not shared"
    start: ClassVar[Start] = "near"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"inner": Pfeiffer(bottleneck=4), "copies": 3},
        {"inner": Houlsby(bottleneck=3), "copies": 2, "share": "up"},
    )
    passes: ClassVar[int] = 2

    inner: Method = field(default_factory=Pfeiffer)
    """Pfeiffer, Houlsby or LoRA."""
    copies: int = 4
    share: Share = "none"
    """Which projection has one copy alone."""

    def __post_init__(self) -> None:
        if self.copies < 2:
            raise InputError(f"copies is {self.copies}; a mixture has at least 2.")
        if not isinstance(self.inner, Pfeiffer | Houlsby | LoRA):
            raise InputError(f"inner is {type(self.inner).__name__}; AdaMix mixes Pfeiffer, Houlsby or LoRA.")
        if isinstance(self.inner, LoRA) and (self.inner.dora or self.inner.bias or self.inner.init != "kaiming"):
            raise UnsupportedError("AdaMix mixes plain LoRA: copies of a DoRA, of biases or of a computed start have no average.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """Copies of every edit of the inner method."""
        drawn = [self.inner.edits(sites, rng) for _ in range(self.copies)]
        return Edits(tuple(self._mixed(one) for one in zip(*drawn, strict=True)))

    def _mixed(self, copies: tuple[Edit, ...]) -> Edit:
        first = copies[0]
        down, up = ([copies[0]] if self.share == side else list(copies) for side in ("down", "up"))
        if isinstance(first, LoRAEdit):
            return MixedLoRA(
                site=first.site,
                a_CKI=_stacked("a_KI", down),
                b_COK=_stacked("b_OK", up),
                scale=first.scale,
                dropout=first.dropout,
            )
        assert isinstance(first, Bottleneck)
        return MixedBottleneck(
            site=first.site,
            down_CMH=_stacked("down_MH", down),
            down_bias_CM=_stacked("down_bias_M", down),
            up_CHM=_stacked("up_HM", up),
            up_bias_CH=_stacked("up_bias_H", up),
            activation=first.activation,
            place="houlsby" if isinstance(first, BottleneckEdit) else "pfeiffer",
        )

    def finished(self, edits: Edits) -> tuple[Method, Edits]:
        """The inner method with the average of the copies."""
        with torch.no_grad():
            return self.inner, Edits(tuple(_averaged(edit) for edit in edits))


def _stacked(name: str, copies: list[Edit]) -> Tensor:
    return torch.stack([copy.trained()[name] for copy in copies])


def _averaged(edit: Edit) -> Edit:
    if isinstance(edit, MixedLoRA):
        return edit.inner(edit.a_CKI.mean(0), edit.b_COK.mean(0))
    assert isinstance(edit, MixedBottleneck)
    return edit.inner((edit.down_CMH.mean(0), edit.down_bias_CM.mean(0)), (edit.up_CHM.mean(0), edit.up_bias_CH.mean(0)))
