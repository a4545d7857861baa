"""What LoRA's edits share: a change of low rank, and factors of a weight to start it from.

Shapes: R rows, T tokens, I inputs, O outputs, K rank.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from lmtailor.base.sites import Site, Sites
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import Context, fixed, per_row, trained
from lmtailor.edits.kinds import ProjectionEdit


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank(ProjectionEdit):
    """Base of the edits that change a weight by s · (B A − B₀ A₀); without start factors by s · B A."""

    a_KI: Tensor = trained(pad=(0,))
    b_OK: Tensor = trained(pad=(1,))
    a0_KI: Tensor | None = fixed(pad=(0,), optional=True)
    b0_OK: Tensor | None = fixed(pad=(1,), optional=True)
    scale: float = per_row()
    dropout: float = 0.0
    memo: dict[str, Tensor] = field(init=False, default_factory=dict, repr=False, metadata={"sort": "memo"})
    """Of a stack, which is made anew when one of its tensors changes: what depends on the tensors alone."""

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (K, I) and B (O, K) of the change, also in stacks; with start factors [A; A₀] and [B, −B₀], of twice the rank."""
        if self.a0_KI is None or self.b0_OK is None:
            return self.a_KI, self.b_OK
        return torch.cat([self.a_KI, self.a0_KI], -2), torch.cat([self.b_OK, -self.b0_OK], -1)

    def change(self) -> Tensor:
        """s · (B A − B₀ A₀) of a solo edit, (O, I), in float64."""
        a_KI, b_OK = self.factors()
        return (b_OK.double() @ a_KI.double()) * self.scale

    def added(self, x_RTI: Tensor, y_RTO: Tensor, ctx: Context) -> Tensor:
        """y + s · (B A − B₀ A₀) dropout(x)."""
        if self.a0_KI is None or self.live:
            a_RKI, b_ROK = self.factors()
        else:
            a_RKI, b_ROK = self.once("a", lambda: self.factors()[0]), self.once("b", lambda: self.factors()[1])
        if ctx.training and self.dropout:
            x_RTI = F.dropout(x_RTI, self.dropout)
        # The scale is applied where the numbers are fewest.
        return torch.baddbmm(y_RTO, _lowered(x_RTI, a_RKI) * self.scale, b_ROK.transpose(1, 2))

    @property
    def live(self) -> bool:
        """Whether a gradient must reach the factors."""
        return torch.is_grad_enabled() and self.a_KI.requires_grad

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A constant of this stack. It is computed without gradient, and not in the lower precision of autocast."""
        if name not in self.memo:
            with torch.no_grad(), torch.autocast(self.a_KI.device.type, enabled=False):
                self.memo[name] = make()
        return self.memo[name]


def _lowered(x_RTI: Tensor, a_RKI: Tensor) -> Tensor:
    """A x of every row, (R, T, K). Of one token a row it is a matrix times a vector, which reads A faster as it lies."""
    if x_RTI.shape[1] == 1:
        return torch.bmm(a_RKI, x_RTI.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(x_RTI, a_RKI.transpose(1, 2))


def principal(weight_OI: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """PiSSA's start: A₀ = (S/s)^½ Vᵀ and B₀ = U (S/s)^½ of the largest singular values. s · B₀ A₀ is W's best of this rank."""
    u_OK, s_K, v_KI = torch.linalg.svd(weight_OI.detach().float(), full_matrices=False)
    root_K = (s_K[:rank] / scale).sqrt()
    return root_K[:, None] * v_KI[:rank], u_OK[:, :rank] * root_K


def orthonormal(weight_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """OLoRA's start: the first rows of R and the first columns of Q, where W = Q R."""
    q_OK, r_KI = torch.linalg.qr(weight_OI.detach().float())
    return r_KI[:rank].contiguous(), q_OK[:, :rank].contiguous()


def row_norms(weight_OI: Tensor, a_RKI: Tensor, b_ROK: Tensor) -> Tensor:
    """‖W + B A‖ of each output, (R, O), in float32, without forming B A.

    ‖W‖² + 2 · row(W ∘ B A) + ‖B A‖², where row(W ∘ B A) = row(B ∘ W Aᵀ) and ‖B A‖² = row(B (A Aᵀ) ∘ B).
    """
    weight_OI, a_RKI, b_ROK = weight_OI.detach().float(), a_RKI.float(), b_ROK.float()
    cross_ROK = torch.matmul(a_RKI, weight_OI.T).transpose(1, 2)
    gram_RKK = torch.bmm(a_RKI, a_RKI.transpose(1, 2))
    square_RO = weight_OI.square().sum(1) + (b_ROK * (2 * cross_ROK + torch.bmm(b_ROK, gram_RKK))).sum(-1)
    norms_RO: Tensor = square_RO.clamp_min(torch.finfo(torch.float32).tiny).sqrt()
    return norms_RO


def values_by_pattern(name: str, patterns: Mapping[str, float], chosen: tuple[Site, ...], sites: Sites) -> dict[str, float]:
    """Site → value, from the first pattern that selects it; sites that none selects are left out.

    Raises:
        InputError: a pattern selects none of the chosen sites.
        SiteError: it selects nothing at all.
    """
    out: dict[str, float] = {}
    adapted = {site.name for site in chosen}
    for pattern, value in patterns.items():
        own = adapted & {site.name for site in sites.select(pattern, "projection", "embedding")}
        if not own:
            raise InputError(f"{name}: {pattern!r} selects no site that LoRA is at. Add its sites to `at`, or leave it out.")
        out |= {site: value for site in own if site not in out}
    return out
