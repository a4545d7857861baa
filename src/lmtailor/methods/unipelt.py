"""UniPELT: an adapter, a prefix and LoRA in every block, each behind a gate that reads what the submodule reads.
Mao et al. 2022, arXiv:2110.07577, section 3.

    adapter   h + G · (W_up σ(W_down z + b_down) + b_up)   one a block, of Pfeiffer's placement
    prefix    [G · P_k; K] and [G · P_v; V]                the same gate for keys and values
    LoRA      y + G · B A x                                of queries and values; the gate takes the place of alpha / rank

G = σ(w · x + b), with x the submodule's own input: z, the attention's input, the projection's input. In stacks that are not
causal G is the mean over the sequence's tokens, as in the paper's code and in AdapterHub; padding, which they count, is left
out. In causal stacks each token has a gate of its own, where AdapterHub takes the mean over all tokens of the pass: a token
would see later ones, and decoding behind a cache would differ from one pass.

`variant="ap"` leaves LoRA out. The input's positions stay where they are. The paper computes the prefix by a network that is
thrown away after training; here it is trained as it is.

Shapes: R rows, T tokens, H features, M bottleneck, K rank, I inputs, O outputs, N virtual tokens, W = kv_heads · head_dim.
Start: gates N(0, 0.02²) with bias 0, so that G is about ½; the prefix N(0, 0.02²); the bottleneck N(0, 0.02²) with biases 0;
A U[-1/√I, 1/√I], B zero.
Trained parameters: the sum of 2 · H · M + M + H + H + 1 over the adapters, of 2 · N · W + H + 1 over the attentions, and of
K · (I + O) + I + 1 over the projections.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from lmtailor.base.sites import Site, Sites
from lmtailor.base.views import LinearView, NormView
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import Context, Edit, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PrefixEdit, ProjectionEdit
from lmtailor.methods._bottleneck import Activation, Bottleneck, after_add, check_units, units
from lmtailor.methods.method import Method, Recipe, normal, uniform, zeros
from lmtailor.methods.prefix import PlainPrefix, Prefix


@dataclass(frozen=True, kw_only=True, eq=False)
class GatedBottleneck(Bottleneck):
    """A bottleneck network behind the residual add, with a gate."""

    needs_entry: ClassVar[bool] = True
    needs_shares: ClassVar[bool] = True

    gate_H: Tensor = trained()
    gate_bias_1: Tensor = trained()
    pooled: bool = False

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        """h + G · (W_up σ(W_down z + b_down) + b_up)."""
        assert residual_RTH is not None
        z_RTH = after_add(h_RTH, residual_RTH, norm)
        return h_RTH + gated(z_RTH, self.gate_H, self.gate_bias_1, self.pooled, ctx) * self.network(z_RTH)


@dataclass(frozen=True, kw_only=True, eq=False)
class GatedLoRA(ProjectionEdit):
    """A low-rank addition to one projection, with a gate in place of the scale."""

    foldable: ClassVar[bool] = False
    needs_shares: ClassVar[bool] = True

    a_KI: Tensor = trained(pad=(0,))
    b_OK: Tensor = trained(pad=(1,))
    gate_I: Tensor = trained()
    gate_bias_1: Tensor = trained()
    dropout: float = 0.0
    pooled: bool = False

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """y + G · B A dropout(x)."""
        gate_RT1 = gated(x_RTI, self.gate_I, self.gate_bias_1, self.pooled, ctx)
        inner_RTK = torch.bmm(F.dropout(x_RTI, self.dropout, training=ctx.training), self.a_KI.transpose(1, 2))
        return torch.baddbmm(y_RTO, inner_RTK * gate_RT1, self.b_OK.transpose(1, 2))

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Impossible: the gate depends on the input."""
        raise AssertionError("an edit that is not foldable is never folded")


@dataclass(frozen=True, kw_only=True, eq=False)
class GatedPrefix(PrefixEdit):
    """Keys and values with a gate in each layer."""

    prefix_L2KND: Tensor = trained()
    gate_LH: Tensor = trained()
    gate_bias_L: Tensor = trained()

    def key_values(self) -> Tensor:
        """The trained tensor itself."""
        return self.prefix_L2KND

    def gate(self) -> tuple[Tensor, Tensor] | None:
        """The trained gates."""
        return self.gate_LH, self.gate_bias_L


def gated(x_RTF: Tensor, weight_RF: Tensor, bias_R1: Tensor, pooled: bool, ctx: Context) -> Tensor:
    """The gate σ(w · x + b) of each token (R, T, 1), or its mean over the token's sequence."""
    gate_RT1 = torch.sigmoid(torch.baddbmm(bias_R1[:, None], x_RTF, weight_RF[..., None]))
    return ctx.mean(gate_RT1) if pooled else gate_RT1


@dataclass(frozen=True, kw_only=True)
class UniPELT(Method):
    """An adapter, a prefix and LoRA in every block, each behind a gate."""

    recipe: ClassVar[Recipe] = Recipe(lr=5e-4)
    paper: ClassVar[str] = "Mao et al. 2022, section 3"
    formula: ClassVar[str] = "Σ 2 · H · M + M + H + H + 1, 2 · length · kv_heads · head_dim + H + 1, rank · (I + O) + I + 1"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"length": 3, "rank": 2, "bottleneck": 4},
        {"variant": "ap", "length": 2, "bottleneck": 3},
    )

    variant: Literal["ap", "apl"] = "apl"
    """Adapter and prefix, or LoRA too."""
    length: int = 10
    """Virtual tokens of the prefix."""
    reduction: int = 16
    """The width is divided by it."""
    bottleneck: int | None = None
    """Units of the adapter; None takes the width // `reduction`."""
    activation: Activation = "relu"
    rank: int = 8
    dropout: float = 0.0
    """Applied to the input of A while training."""
    adapter_at: str = "block.*.ffn"
    prefix_at: str = "block.*.attn"
    lora_at: str = "block.*.attn.{q,v}"

    def __post_init__(self) -> None:
        check_units(self.bottleneck, self.reduction)
        self._prefix()
        if self.rank < 1:
            raise InputError(f"rank is {self.rank}; LoRA needs at least 1.")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout is {self.dropout}; it must be at least 0 and less than 1.")

    def _prefix(self) -> Prefix:
        return Prefix(length=self.length, at=self.prefix_at, shift=False)

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """Prefixes, adapters, and LoRA unless it is left out."""
        edits: list[Edit] = [self._gated_prefix(edit, sites, rng) for edit in self._prefix().edits(sites, rng)]
        edits += [self._bottleneck(site, sites, rng) for site in sites.select(self.adapter_at, "sublayer")]
        if self.variant == "apl":
            edits += [self._lora(site, sites, rng) for site in sites.select(self.lora_at, "projection")]
        return Edits(tuple(edits))

    def _gated_prefix(self, edit: Edit, sites: Sites, rng: Generator | None) -> GatedPrefix:
        assert isinstance(edit, PlainPrefix)
        own = [sites[name] for name in edit.sites]
        return GatedPrefix(
            site=edit.site,
            sites=edit.sites,
            length=edit.length,
            shift=False,
            pooled=_pooled(own[0], sites),
            prefix_L2KND=edit.prefix_L2KND,
            gate_LH=normal((len(own), own[0].width), rng, std=0.02),
            gate_bias_L=zeros((len(own),), rng),
        )

    def _bottleneck(self, site: Site, sites: Sites, rng: Generator | None) -> GatedBottleneck:
        inner = units(site.width, self.bottleneck, self.reduction)
        return GatedBottleneck(
            site=site.name,
            down_MH=normal((inner, site.width), rng, std=0.02),
            down_bias_M=zeros((inner,), rng),
            up_HM=normal((site.width, inner), rng, std=0.02),
            up_bias_H=zeros((site.width,), rng),
            gate_H=normal((site.width,), rng, std=0.02),
            gate_bias_1=zeros((1,), rng),
            activation=self.activation,
            pooled=_pooled(site, sites),
        )

    def _lora(self, site: Site, sites: Sites, rng: Generator | None) -> GatedLoRA:
        assert site.in_width is not None
        if self.rank > min(site.in_width, site.width):
            raise InputError(
                f"rank {self.rank} is above that of {site.name}, a {site.width} × {site.in_width} matrix. Take a smaller rank."
            )
        return GatedLoRA(
            site=site.name,
            a_KI=uniform((self.rank, site.in_width), rng, bound=site.in_width**-0.5),
            b_OK=zeros((site.width, self.rank), rng),
            gate_I=normal((site.in_width,), rng, std=0.02),
            gate_bias_1=zeros((1,), rng),
            dropout=self.dropout,
            pooled=_pooled(site, sites),
        )


def _pooled(site: Site, sites: Sites) -> bool:
    """Whether a site is in a stack where every token sees all others."""
    return site.stack != "decoder" and sites.kind != "decoder"
