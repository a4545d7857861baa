"""LayerNorm tuning: the gains and shifts of norms, and nothing else.
Qi et al. 2022, arXiv:2211.08682, section 3 (all norms of an encoder); Zhao et al. 2023, arXiv:2312.11420 (the norms of a
decoder's blocks).

g ⊙ z + b, where z is the norm's input after normalising. Norms without a shift (RMS norms) keep none.
Shapes: R rows, T tokens, H features.
Trained are the *values*, as the model stores them (Gemma stores gains less one), not their changes; so a file holds the same
numbers here and in PEFT. The start is the base's own values: the model is unchanged. Vectors are not decayed by default;
decay, where asked for, would pull to zero and not to the base. At a norm that another method changes too (BitFit), the
difference from the base's values is added.
Trained parameters: the sum of H over the norms, twice where a norm has a shift. Norms of each head's queries and keys are norms
too; `at` can leave them out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from lmtailor.base.sites import Site, Sites
from lmtailor.base.views import NormView
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edit import Context, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import NormEdit
from lmtailor.methods.method import Method, Recipe, Start


@dataclass(frozen=True, kw_only=True, eq=False)
class NormValues(NormEdit):
    """Other values of a norm's gain and shift."""

    gain_H: Tensor = trained()
    """As the model stores it."""
    shift_H: Tensor | None = trained(optional=True)
    unit: float = 0.0
    """What the norm adds to the stored gain (1 in Gemma)."""

    def normed(self, x_RTH: Tensor, y_RTH: Tensor, norm: NormView, ctx: Context) -> Tensor:
        """y + (g - g₀) ⊙ z + (b - b₀)."""
        change_RH = self.gain_H - _stored(norm)
        y_RTH = y_RTH + norm.normalised(x_RTH) * change_RH[:, None]
        if self.shift_H is None:
            return y_RTH
        assert norm.shift_H is not None
        return y_RTH + (self.shift_H - norm.shift_H)[:, None]

    def fold(self, gain_H: Tensor, shift_H: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """g and b."""
        shift = shift_H if self.shift_H is None else self.shift_H.to(gain_H.dtype)
        return self.gain_H.to(gain_H.dtype) + self.unit, shift


@dataclass(frozen=True, kw_only=True)
class LayerNormTuning(Method):
    """Gains and shifts of norms."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-3)
    paper: ClassVar[str] = "Qi et al. 2022, section 3"
    formula: ClassVar[str] = "Σ H over gains + Σ H over shifts"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"at": "block.*.norm2"})

    at: str | None = None
    """Norms; None: all of the model."""

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """Other values for every norm."""
        chosen = [site for site in sites.values() if site.kind == "norm"] if self.at is None else sites.select(self.at, "norm")
        if not chosen:
            raise UnsupportedError(f"{sites.model_type} has no norm with weights, so there is no gain or shift to train.")
        return Edits(tuple(self._edit(site, sites.norm(site), rng) for site in chosen))

    def _edit(self, site: Site, norm: NormView, rng: Generator | None) -> NormValues:
        shift_H = None if norm.shift_H is None else _copy(norm.shift_H, rng)
        return NormValues(site=site.name, gain_H=_copy(_stored(norm), rng), shift_H=shift_H, unit=norm.unit)


def _stored(norm: NormView) -> Tensor:
    """The gain as the module stores it; one is not added and taken off again, which would round it."""
    weight: Tensor = norm.module.weight  # type: ignore[assignment]
    return weight


def _copy(value: Tensor, rng: Generator | None) -> Tensor:
    """The base's own values in float32; without memory if there is no generator."""
    return torch.empty(value.shape, device="meta") if rng is None else value.detach().float().clone()
