"""LoReFT: h + Rᵀ (W h + b − R h) at the first p and the last s tokens of the prompt, behind every block.
Wu et al. 2024, arXiv:2404.03592, sections 3.2 and 4.

R has orthonormal rows: it is the orthonormal factor of a trained matrix (QR with a positive diagonal), computed anew in each
training step and stored plainly at the end. `orthogonal=False` trains R itself (NoReFT); `subtract=False` leaves − R h out
(DiReFT).
First and last tokens have an R, W and b each unless `tied`. Where the prompt has n < p + s tokens, p becomes min(p, ⌊n/2⌋)
and s becomes min(s, ⌈n/2⌉). Padding and virtual tokens do not count.

The prompt is what is in front of the model before it generates; generated tokens are left as they are. In training on whole
texts it is the whole text, so a model that is to generate wants last=0. The decoder of an encoder-decoder has no prompt.
Shapes: R rows, T tokens, H features, K rank.
Start: R orthonormal at random, W and b uniform, U[-1/√H, 1/√H], as in the paper's code: not the base.
Trained parameters: over the blocks the sum of 2 · H · K + K, twice that where first and last differ.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from lmtailor.base.sites import Site, Sites
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.edit import Context, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PlacedEdit
from lmtailor.methods.method import Finishes, Method, Recipe, Start, normal, uniform


@dataclass(frozen=True, kw_only=True, eq=False)
class ReFTEdit(PlacedEdit):
    """One intervention at some of the first and last tokens."""

    projection_KH: Tensor = trained()
    """R, or with `orthogonal` a matrix of which R is the orthonormal factor."""
    source_KH: Tensor = trained()
    source_bias_K: Tensor = trained()
    first: int
    last: int
    acts: Literal["first", "last", "both"] = "both"
    orthogonal: bool = True
    subtract: bool = True
    dropout: float = 0.0

    def placed(self, h_RTH: Tensor, places_RT3: Tensor, ctx: Context) -> Tensor:
        """h + Rᵀ (W h + b − R h) where the token is chosen, h elsewhere."""
        rotation_RKH = orthonormal(self.projection_KH) if self.orthogonal else self.projection_KH
        inner_RTK = torch.baddbmm(self.source_bias_K[:, None], h_RTH, self.source_KH.transpose(1, 2))
        if self.subtract:
            inner_RTK = inner_RTK - torch.bmm(h_RTH, rotation_RKH.transpose(1, 2))
        changed_RTH = h_RTH + torch.bmm(inner_RTK, rotation_RKH)
        if ctx.training and self.dropout:
            changed_RTH = F.dropout(changed_RTH, self.dropout)
        return torch.where(self._chosen(places_RT3)[..., None], changed_RTH, h_RTH)

    def _chosen(self, places_RT3: Tensor) -> Tensor:
        """Which tokens (R, T) are acted on."""
        place_RT, count_RT = places_RT3[..., 0], places_RT3[..., 1]
        short_RT = count_RT < self.first + self.last
        first_RT = torch.where(short_RT, (count_RT // 2).clamp_max(self.first), self.first)
        last_RT = torch.where(short_RT, ((count_RT + 1) // 2).clamp_max(self.last), self.last)
        front_RT = place_RT < first_RT
        back_RT = place_RT >= count_RT - last_RT
        either_RT = {"first": front_RT, "last": back_RT, "both": front_RT | back_RT}[self.acts]
        return either_RT & (place_RT >= 0)

    def plain(self) -> "ReFTEdit":
        """The same with R itself."""
        with torch.no_grad():
            return replace(self, projection_KH=orthonormal(self.projection_KH).contiguous(), orthogonal=False)


def orthonormal(matrix_KH: Tensor) -> Tensor:
    """Orthonormal rows that span the same, (…, K, H); rows that are orthonormal already come back."""
    with torch.autocast(matrix_KH.device.type, enabled=False):
        q_HK, r_KK = torch.linalg.qr(matrix_KH.float().transpose(-1, -2))
        sign_K = torch.where(r_KK.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
        rows_KH: Tensor = (q_HK * sign_K[..., None, :]).transpose(-1, -2)
        return rows_KH.to(matrix_KH.dtype)


@dataclass(frozen=True, kw_only=True)
class LoReFT(Method, Finishes):
    """Low-rank interventions on the states of the prompt's first and last tokens."""

    recipe: ClassVar[Recipe] = Recipe(lr=9e-4, warmup=0.1)
    paper: ClassVar[str] = "Wu et al. 2024, section 3.2"
    formula: ClassVar[str] = "Σ (1 or 2) · (2 · H · rank + rank)"
    start: ClassVar[Start] = "elsewhere"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"rank": 2, "first": 2, "last": 1},
        {"rank": 3, "first": 7, "last": 7, "tied": True, "orthogonal": False},
        {"rank": 2, "first": 3, "last": 0, "subtract": False},
    )

    rank: int = 8
    first: int = 7
    """Tokens at the prompt's beginning (p)."""
    last: int = 7
    """Tokens at its end (s)."""
    tied: bool = False
    """One intervention for first and last tokens."""
    orthogonal: bool = True
    subtract: bool = True
    dropout: float = 0.0
    """Applied to the changed states while training."""
    at: str | None = None
    """Blocks; None takes all of the only stack, or of the encoder."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"rank is {self.rank}; an intervention needs at least 1.")
        if min(self.first, self.last) < 0 or not self.first + self.last:
            raise InputError(f"first is {self.first} and last is {self.last}; they count tokens, and one must be above 0.")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout is {self.dropout}; it must be at least 0 and less than 1.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One or two interventions for every block that `at` selects."""
        pattern = self.at or ("encoder.block.*" if "encoder" in sites.stacks else "block.*")
        chosen = sites.select(pattern, "block")
        if any(site.stack == "decoder" for site in chosen):
            raise UnsupportedError(
                f"at={self.at!r} selects blocks of the decoder of {sites.model_type}, which has no prompt: it begins with one "
                "token, so that training and generation would act on other tokens. Select encoder blocks."
            )
        parts: tuple[Literal["first", "last", "both"], ...] = ("first", "last") if self.first and self.last else ("both",)
        if self.tied:
            parts = ("both",)
        return Edits(tuple(self._edit(site, acts, rng) for site in chosen for acts in parts))

    def _edit(self, site: Site, acts: Literal["first", "last", "both"], rng: Generator | None) -> ReFTEdit:
        if self.rank > site.width:
            raise InputError(f"rank {self.rank} is above the {site.width} features of {site.name}. Take a smaller rank.")
        shape, bound = (self.rank, site.width), 1 / math.sqrt(site.width)
        start_KH = normal(shape, rng, std=1.0)
        return ReFTEdit(
            site=site.name,
            projection_KH=start_KH if rng is None else orthonormal(start_KH).contiguous(),
            source_KH=uniform(shape, rng, bound=bound),
            source_bias_K=uniform((self.rank,), rng, bound=bound),
            first=self.first,
            last=self.last,
            acts=acts,
            orthogonal=self.orthogonal,
            subtract=self.subtract,
            dropout=self.dropout,
        )

    def finished(self, edits: Edits) -> tuple[Method, Edits]:
        """R itself in place of what it is computed from."""
        if not self.orthogonal:
            return self, edits
        return replace(self, orthogonal=False), Edits(tuple(edit.plain() for edit in edits if isinstance(edit, ReFTEdit)))
