"""AdaLoRA: y + s · P Λ Q x, with a budget of ranks that moves to where it matters.  Zhang et al. 2023, arXiv:2303.10512.

Section 3.1: P Λ Q is a singular value decomposition, P and Q held near orthogonality by the penalty
γ Σ (‖PᵀP - I‖² + ‖QQᵀ - I‖²). The authors' code, and PEFT's, take γ times the mean of the norms, not squared:
`orthogonality="norm"`.
Section 3.2: the importance of a number is s(w) = Ī · Ū, where I = |w · gradient|, Ī is its exponential mean with β₁ and Ū that of
|I - Ī| with β₂; a triplet k of a site has s(λ_k) + the mean of s over column k of P + that over row k of Q.
Section 3.3: for the first `warmup_share` of the steps nothing is cut; then the number of triplets falls as a cubic of time from
init_rank to target_rank a site, and every `every` steps the λ of the others are set to zero (they may come back while it falls);
for the last `final_share` the choice stands. What was cut is dropped when the fit ends. (A fit that keeps the best weights on dev
may keep those of a step before, with more triplets.)
The authors' code measures and cuts after an optimizer's step, with the weights that follow it; so it is done here.

Shapes: R rows, T tokens, I inputs, O outputs, K rank. s = alpha / init_rank at every site; without `alpha` it is 1, as in the
paper.
Start: P and Q N(0, 0.02²), as in the authors' code; Λ zero, so that the model is unchanged.
Trained parameters: the sum of K · (I + O + 1) over the sites.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from lmtailor.base.sites import Site, Sites
from lmtailor.base.views import LinearView
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import Context, Edit, per_row, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import ProjectionEdit
from lmtailor.methods._triplets import Triplets, budget
from lmtailor.methods.method import Finishes, Method, Penalises, Recipe, Start, Steps, normal, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaLoRAEdit(ProjectionEdit):
    """A low-rank addition as a singular value decomposition."""

    p_OK: Tensor = trained(pad=(1,))
    lambda_K: Tensor = trained(pad=(0,))
    q_KI: Tensor = trained(pad=(0,))
    scale: float = per_row()
    dropout: float = 0.0

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """y + s · P Λ Q dropout(x)."""
        h_RTK = torch.bmm(F.dropout(x_RTI, self.dropout, training=ctx.training), self.q_KI.transpose(1, 2))
        return y_RTO + torch.bmm(h_RTK * (self.lambda_K[:, None] * self.scale), self.p_OK.transpose(1, 2))

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W + s · P Λ Q."""
        delta = self.p_OK.double() @ (self.lambda_K.double()[:, None] * self.q_KI.double()) * self.scale
        return (weight_OI.double() + delta).to(weight_OI.dtype), bias_O

    def kept(self) -> "AdaLoRAEdit":
        """Without the triplets that were cut."""
        keep = self.lambda_K != 0
        return replace(self, p_OK=self.p_OK[:, keep], lambda_K=self.lambda_K[keep], q_KI=self.q_KI[keep])


@dataclass(frozen=True, kw_only=True)
class AdaLoRA(Method, Penalises, Steps, Finishes):
    """Low-rank additions whose ranks are chosen while training."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-3, weight_decay=0.01)
    paper: ClassVar[str] = "Zhang et al. 2023, section 3"
    formula: ClassVar[str] = "Σ init_rank · (I + O + 1)"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"init_rank": 3, "target_rank": 2, "alpha": 6.0, "at": "block.*.attn.{q,v}"},
        {"init_rank": 3, "target_rank": 2, "at": "block.0.attn.{q,v}", "ranks": {"block.0.attn.v": 2}},
    )

    init_rank: int = 12
    """Rank of every site at first; the paper's is one and a half of the target."""
    target_rank: int = 8
    """Mean rank of the sites at last."""
    alpha: float | None = None
    dropout: float = 0.0
    """Applied to the input of Q while training."""
    at: str = "block.*.attn.{q,k,v,o}, block.*.ffn.{gate,up,down}"
    """The paper adapts every matrix of a block."""
    warmup_share: float = 0.1
    """Of the steps, before the budget falls: t_i / T."""
    final_share: float = 0.5
    """Of the steps, after it fell, at least one: t_f / T."""
    every: int = 1
    """Steps between two choices: Δ_T."""
    beta1: float = 0.85
    beta2: float = 0.85
    gamma: float = 0.1
    """Weight of the penalty."""
    orthogonality: Literal["squared", "norm"] = "squared"
    ranks: Mapping[str, int] | None = None
    """Ranks by site, as a fit left them; sites that are not named have none. None: init_rank everywhere."""

    def __post_init__(self) -> None:
        if not 1 <= self.target_rank <= self.init_rank:
            raise InputError(f"target_rank is {self.target_rank}; it must be from 1 to init_rank, which is {self.init_rank}.")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout is {self.dropout}; it must be at least 0 and less than 1.")
        if min(self.warmup_share, self.final_share) < 0 or self.warmup_share + self.final_share >= 1:
            raise InputError(
                f"warmup_share {self.warmup_share} and final_share {self.final_share} leave no steps in which the budget falls; "
                "both are at least 0, and together less than 1."
            )
        if self.every < 1:
            raise InputError(f"every is {self.every}; it is a number of steps, at least 1.")
        if not (0 < self.beta1 < 1 and 0 < self.beta2 < 1):
            raise InputError(f"beta1 {self.beta1} and beta2 {self.beta2} must be between 0 and 1.")
        if self.gamma < 0:
            raise InputError(f"gamma is {self.gamma}; the weight of a penalty is at least 0.")
        if self.ranks is not None and any(rank < 1 for rank in self.ranks.values()):
            raise InputError("Every rank in `ranks` is at least 1; a site that has none is left out.")

    @property
    def scale(self) -> float:
        """s, the factor of P Λ Q."""
        return 1.0 if self.alpha is None else self.alpha / self.init_rank

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One addition for every projection that `at` selects, or of those that `ranks` names."""
        chosen = sites.select(self.at, "projection")
        if self.ranks is None:
            return Edits(tuple(self._edit(site, self.init_rank, rng) for site in chosen))
        for name in self.ranks:
            if sites[name] not in chosen:
                raise InputError(
                    f"`ranks` has {name!r}, which the pattern {self.at!r} does not select. Widen `at`, or leave it out."
                )
        return Edits(tuple(self._edit(site, self.ranks[site.name], rng) for site in chosen if site.name in self.ranks))

    def penalty(self, edits: Edits) -> Tensor:
        """γ times how far P and Q are from orthogonal."""
        terms = []
        for edit in edits:
            assert isinstance(edit, AdaLoRAEdit)
            for gram in (edit.p_OK.T @ edit.p_OK, edit.q_KI @ edit.q_KI.T):
                away = gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
                terms.append(away.square().sum() if self.orthogonality == "squared" else torch.linalg.matrix_norm(away))
        if not terms:
            return torch.zeros(())
        total = torch.stack(terms)
        return self.gamma * (total.sum() if self.orthogonality == "squared" else total.mean())

    def stepped(self, edits: Edits, memory: dict[str, Tensor], step: int, total: int) -> None:
        """Measure importance, and set the λ of the least important triplets to zero."""
        start, end = round(self.warmup_share * total), total - max(1, round(self.final_share * total))
        triplets = Triplets({edit.site: _parts(edit) for edit in edits}, memory)
        if step > end:
            triplets.keep()
            return
        if step < end or step == 0:
            triplets.measure(self.beta1, self.beta2)
        if step == end or (step > start and step % self.every == 0):
            triplets.cut(budget(step, start, end, triplets.count, self.target_rank * len(triplets.parts)))
        if step == end:
            triplets.settle()

    def finished(self, edits: Edits) -> tuple[Method, Edits]:
        """The same without the triplets that were cut."""
        kept = []
        for edit in edits:
            assert isinstance(edit, AdaLoRAEdit)
            if bool(edit.lambda_K.any()):
                kept.append(edit.kept())
        ranks = {edit.site: len(edit.lambda_K) for edit in kept}
        return replace(self, ranks=ranks), Edits(tuple(kept))

    def _edit(self, site: Site, rank: int, rng: Generator | None) -> AdaLoRAEdit:
        assert site.in_width is not None
        if rank > min(site.in_width, site.width):
            raise InputError(
                f"rank {rank} is above that of {site.name}, a {site.width} × {site.in_width} matrix. Take a smaller rank."
            )
        return AdaLoRAEdit(
            site=site.name,
            p_OK=normal((site.width, rank), rng, std=0.02),
            lambda_K=zeros((rank,), rng),
            q_KI=normal((rank, site.in_width), rng, std=0.02),
            scale=self.scale,
            dropout=self.dropout,
        )


def _parts(edit: Edit) -> dict[str, tuple[Tensor, int]]:
    """The tensors of P, Λ and Q, each with the axis of its triplets."""
    assert isinstance(edit, AdaLoRAEdit)
    return {"p": (edit.p_OK, 1), "lambda": (edit.lambda_K, 0), "q": (edit.q_KI, 0)}
