"""LayerNorm tuning: the gains and shifts of norms, and nothing else.
Qi et al. 2022, arXiv:2211.08682, section 3 (all norms of an encoder); Zhao et al. 2023, arXiv:2312.11420 (the norms of a
decoder's blocks).

(g + d_g) ⊙ z + b + d_b, where z is the norm's input after normalising. Norms without a shift (RMS norms) keep none. Where the
stored gain is one less than the factor (Gemma), d_g is the change of both.
Shapes: R rows, T tokens, H features.
Trained is the *change*, which starts at zero: the model is unchanged, and weight decay, where asked for, would pull to the
pretrained values and not to zero. The papers train the values themselves, without decay; there the two are the same.
Trained parameters: the sum of H over the norms, twice where a norm has a shift. Norms of each head's queries and keys are norms
too; `at` can leave them out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator, Tensor

from lmtailor.base.sites import Site, Sites
from lmtailor.base.views import NormView
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edit import Context, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import NormEdit
from lmtailor.methods.method import Method, Recipe, Start, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class NormChange(NormEdit):
    """A change of a norm's gain and shift."""

    gain_H: Tensor = trained()
    shift_H: Tensor | None = trained(optional=True)

    def normed(self, x_RTH: Tensor, y_RTH: Tensor, norm: NormView, ctx: Context) -> Tensor:
        """y + d_g ⊙ z + d_b."""
        y_RTH = y_RTH + norm.normalised(x_RTH) * self.gain_H[:, None]
        return y_RTH if self.shift_H is None else y_RTH + self.shift_H[:, None]

    def fold(self, gain_H: Tensor, shift_H: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """g + d_g and b + d_b."""
        if self.shift_H is not None:
            own = self.shift_H.to(gain_H.dtype)
            shift_H = own if shift_H is None else shift_H + own
        return gain_H + self.gain_H.to(gain_H.dtype), shift_H


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
        """One change for every norm."""
        chosen = [site for site in sites.values() if site.kind == "norm"] if self.at is None else sites.select(self.at, "norm")
        if not chosen:
            raise UnsupportedError(f"{sites.model_type} has no norm with weights, so there is no gain or shift to train.")
        return Edits(tuple(self._edit(site, sites, rng) for site in chosen))

    def _edit(self, site: Site, sites: Sites, rng: Generator | None) -> NormChange:
        has_shift = sites.norm(site).shift_H is not None
        shift_H = zeros((site.width,), rng) if has_shift else None
        return NormChange(site=site.name, gain_H=zeros((site.width,), rng), shift_H=shift_H)
