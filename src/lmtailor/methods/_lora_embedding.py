"""LoRA at the word embeddings: h + s · B A e, where e is a token's unit vector, so that A e is a column of A.

Shapes: R rows, T tokens, V size of the vocabulary, H features, K rank.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lmtailor.base.sites import Site, Sites
from lmtailor.base.views import NormView
from lmtailor.edits.edit import Context, per_row, trained
from lmtailor.edits.kinds import HiddenEdit


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingLoRAEdit(HiddenEdit):
    """A low-rank addition to a table of word embeddings. It is added to what the table gives, after any scale of its own."""

    needs_entry: ClassVar[bool] = True

    a_KV: Tensor = trained(pad=(0,))
    b_HK: Tensor = trained(pad=(1,))
    scale: float = per_row()

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        """h + s · B A e."""
        assert x_RTH is not None
        a_RVK = self.a_KV.transpose(1, 2)
        a_RTK = a_RVK.gather(1, x_RTH.expand(-1, -1, a_RVK.shape[2])) * self.scale
        return torch.baddbmm(h_RTH, a_RTK, self.b_HK.transpose(1, 2))


def vocabulary(site: Site, sites: Sites) -> int:
    """How many tokens a table of word embeddings has."""
    (weight_VH,) = sites.parameters(site.name).values()
    return len(weight_VH)
