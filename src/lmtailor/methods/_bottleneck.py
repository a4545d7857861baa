"""The network in the middle of adapters, W_up σ(W_down z + b_down) + b_up, and what its input z may be: h + network(z).

Shapes: R rows, T tokens, H features, M bottleneck.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lmtailor.base.views import NormView
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import Context, trained
from lmtailor.edits.kinds import HiddenEdit

Activation = Literal["gelu", "relu", "tanh", "silu"]
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "tanh": torch.tanh, "silu": F.silu}


@dataclass(frozen=True, kw_only=True, eq=False)
class Bottleneck(HiddenEdit, ABC):
    """An edit with such a network. Padded units have zero weights in and out, so they add nothing."""

    down_MH: Tensor = trained(pad=(0,))
    down_bias_M: Tensor = trained(pad=(0,))
    up_HM: Tensor = trained(pad=(1,))
    up_bias_H: Tensor = trained()
    activation: Activation = "gelu"

    def network(self, z_RTH: Tensor) -> Tensor:
        """W_up σ(W_down z + b_down) + b_up, (R, T, H)."""
        inner_RTM = torch.baddbmm(self.down_bias_M[:, None], z_RTH, self.down_MH.transpose(1, 2))
        inner_RTM = ACTIVATIONS[self.activation](inner_RTM)
        return torch.baddbmm(self.up_bias_H[:, None], inner_RTM, self.up_HM.transpose(1, 2))


@dataclass(frozen=True, kw_only=True, eq=False)
class OnOutput(HiddenEdit, ABC):
    """A network of the sublayer's output: z = h."""

    @abstractmethod
    def network(self, z_RTH: Tensor) -> Tensor:
        """What is added (R, T, H)."""

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        """h + network(h)."""
        return h_RTH + self.network(h_RTH)


@dataclass(frozen=True, kw_only=True, eq=False)
class BehindAdd(HiddenEdit, ABC):
    """A network of the state behind the residual add, and behind the norm that follows it in post-norm models."""

    needs_entry: ClassVar[bool] = True

    @abstractmethod
    def network(self, z_RTH: Tensor) -> Tensor:
        """What is added (R, T, H)."""

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        """h + network(z)."""
        assert residual_RTH is not None
        return h_RTH + self.network(after_add(h_RTH, residual_RTH, norm))


def after_add(h_RTH: Tensor, residual_RTH: Tensor, norm: NormView | None) -> Tensor:
    """What a sublayer's output h becomes behind the residual add, and behind the norm that follows it in post-norm models."""
    z_RTH = h_RTH + residual_RTH
    if norm is None:
        return z_RTH
    width = (z_RTH.shape[-1],)
    if norm.kind == "layer":
        return F.layer_norm(z_RTH, width, norm.gain_H, norm.shift_H, norm.eps)
    return F.rms_norm(z_RTH, width, norm.gain_H, norm.eps)


def units(width: int, bottleneck: int | None, reduction: int) -> int:
    """Units of a bottleneck: as many as are named, or the width divided by `reduction`, at least 1."""
    return bottleneck if bottleneck is not None else max(1, width // reduction)


def check_units(bottleneck: int | None, reduction: int = 1) -> None:
    """See that a bottleneck is at least one unit wide.

    Raises:
        InputError: it is not.
    """
    if bottleneck is not None and bottleneck < 1:
        raise InputError(f"bottleneck is {bottleneck}; an adapter needs at least 1 unit.")
    if reduction < 1:
        raise InputError(f"reduction is {reduction}; the width is divided by it, so it must be at least 1.")
