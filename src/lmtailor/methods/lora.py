"""LoRA: y + s · B A x.  Hu et al. 2021, arXiv:2106.09685, section 4.1; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732.

Shapes: R rows, T tokens, I inputs, O outputs, K rank. s = alpha / K, or alpha / √K with `rslora`.
Start: A Kaiming-uniform, U[-1/√I, 1/√I]; B zero, so that the model is unchanged.
The paper draws A from a normal distribution; its code, and PEFT's, use the Kaiming-uniform start taken here.

`dora`: m · V / ‖V‖ with V = W + s · B A, a magnitude m for each output (Liu et al. 2024, arXiv:2402.09353); see `_dora.py`.
`init="pissa"`: B A starts at W's largest singular values and W at the rest (Meng et al. 2024, arXiv:2404.02948).
`init="olora"`: B and A start as Q and R of W = Q R (Büyükakyüz 2024, arXiv:2406.01775).
    With both W itself stays untouched: s · (B A − B₀ A₀) is added, B₀ and A₀ are stored, and the start leaves the model as it is.
`b_rate`: B learns at this multiple of A's rate (LoRA+, Hayou et al. 2024, arXiv:2402.12354, who advise 16).
`bias`: s · d is added too, with d starting at zero.
At the word embeddings: h + s · B A e for token ids e as unit vectors, I being the size of the vocabulary; there A starts at
    zero and B is normal, as in the paper's code.
Trained parameters: the sum over the sites of K · (I + O), + O with `dora`, + O with `bias`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from lmtailor.base.sites import Site, Sites
from lmtailor.base.views import LinearView
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.edit import Context, trained
from lmtailor.edits.edits import Edits
from lmtailor.methods._dora import DoRAEdit
from lmtailor.methods._lora import LowRank, orthonormal, principal, values_by_pattern
from lmtailor.methods._lora_embedding import EmbeddingLoRAEdit, vocabulary
from lmtailor.methods.method import Method, Rates, Recipe, Start, normal, uniform, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class LoRAEdit(LowRank):
    """A low-rank addition to one projection."""

    bias_O: Tensor | None = trained(optional=True)
    """d."""

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """y + s · (B A dropout(x) + d)."""
        out_RTO = self.added(x_RTI, y_RTO, ctx)
        return out_RTO if self.bias_O is None else out_RTO + self.scale * self.bias_O[:, None]

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W + s · B A and b + s · d."""
        if self.bias_O is not None:
            own_O = (self.scale * self.bias_O).to(weight_OI.dtype)
            bias_O = own_O if bias_O is None else bias_O + own_O
        return (weight_OI.double() + self.change()).to(weight_OI.dtype), bias_O


@dataclass(frozen=True, kw_only=True)
class LoRA(Method, Rates):
    """Low-rank additions to projections, and to word embeddings."""

    recipe: ClassVar[Recipe] = Recipe(lr=5e-4, weight_decay=0.01)
    paper: ClassVar[str] = "Hu et al. 2021, section 4.1"
    formula: ClassVar[str] = "Σ rank · (I + O)"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"rank": 2, "at": "embed, block.*.attn.{q,v}"},
        {"rank": 3, "alpha": 4.0, "rslora": True, "bias": True, "at": "block.*.attn.{q,k,v,o}, block.*.ffn.{up,down}"},
        {"rank": 2, "dora": True, "rank_pattern": {"block.0.attn.q": 3}, "alpha_pattern": {"block.*.attn.v": 5.0}},
        {"rank": 2, "dora": True, "init": "pissa", "at": "block.*.attn.o"},
        {"rank": 3, "init": "olora"},
    )

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    """Applied to the input of A while training."""
    at: str = "block.*.attn.{q,v}"
    rslora: bool = False
    """Scale by alpha / √rank."""
    dora: bool = False
    """Learn the length of each output's weights apart from their direction."""
    init: Literal["kaiming", "pissa", "olora"] = "kaiming"
    bias: bool = False
    """Learn a bias besides."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    """Site pattern → rank there; the first pattern that selects a site counts."""
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    """Site pattern → alpha there, likewise."""
    b_rate: float = 1.0
    """Learning rate of B over that of A."""

    def __post_init__(self) -> None:
        for rank in (self.rank, *self.rank_pattern.values()):
            if rank < 1:
                raise InputError(f"rank is {rank}; LoRA needs at least 1.")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout is {self.dropout}; it must be at least 0 and less than 1.")
        if self.b_rate <= 0:
            raise InputError(f"b_rate is {self.b_rate}; it must be above 0. 1 trains A and B alike, LoRA+ advises 16.")
        if self.dora and self.bias:
            raise InputError("bias=true and dora=true do not go together. Write LoRA(dora=True) + BitFit() to train biases too.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One addition for every projection, or table of word embeddings, that `at` selects."""
        chosen = sites.select(self.at, "projection", "embedding")
        ranks = values_by_pattern("rank_pattern", self.rank_pattern, chosen, sites)
        alphas = values_by_pattern("alpha_pattern", self.alpha_pattern, chosen, sites)
        return Edits(
            tuple(
                self._edit(site, sites, int(ranks.get(site.name, self.rank)), alphas.get(site.name, self.alpha), rng)
                for site in chosen
            )
        )

    def rates(self, edits: Edits) -> Mapping[str, float]:
        """B's own rate."""
        return {name: self.b_rate for name in edits.state() if name.partition("#")[0].endswith((".b_OK", ".b_HK"))}

    def _edit(self, site: Site, sites: Sites, rank: int, alpha: float, rng: Generator | None) -> LowRank | EmbeddingLoRAEdit:
        inputs = vocabulary(site, sites) if site.in_width is None else site.in_width
        if rank > min(inputs, site.width):
            raise InputError(f"rank {rank} is above that of {site.name}, a {site.width} × {inputs} matrix. Take a smaller rank.")
        scale = alpha / (math.sqrt(rank) if self.rslora else rank)
        if site.in_width is None:
            if self.dora or self.bias or self.init != "kaiming":
                raise UnsupportedError(
                    f"At {site.name} of {sites.model_type}, a table and no projection, LoRA has neither dora nor bias nor a "
                    "start taken from the weight. Leave the option or the site out."
                )
            a_KV, b_HK = zeros((rank, inputs), rng), normal((site.width, rank), rng, std=1.0)
            return EmbeddingLoRAEdit(site=site.name, a_KV=a_KV, b_HK=b_HK, scale=scale)
        tensors: dict[str, Any] = self._start(site, sites, rank, scale, rng)
        if self.dora:
            m_O = torch.empty(site.width, device="meta") if rng is None else sites.linear(site).row_norms_O()
            return DoRAEdit(site=site.name, scale=scale, dropout=self.dropout, m_O=m_O, **tensors)
        bias_O = zeros((site.width,), rng) if self.bias else None
        return LoRAEdit(site=site.name, scale=scale, dropout=self.dropout, bias_O=bias_O, **tensors)

    def _start(self, site: Site, sites: Sites, rank: int, scale: float, rng: Generator | None) -> dict[str, Tensor]:
        assert site.in_width is not None
        if self.init == "kaiming":
            a_KI = uniform((rank, site.in_width), rng, bound=1 / math.sqrt(site.in_width))
            return {"a_KI": a_KI, "b_OK": zeros((site.width, rank), rng)}
        if rng is None:
            a_KI, b_OK = zeros((rank, site.in_width), None), zeros((site.width, rank), None)
        else:
            weight_OI = sites.linear(site).weight_OI
            a_KI, b_OK = principal(weight_OI, rank, scale) if self.init == "pissa" else orthonormal(weight_OI, rank)
        return {"a_KI": a_KI, "b_OK": b_OK, "a0_KI": a_KI.clone(), "b0_OK": b_OK.clone()}
