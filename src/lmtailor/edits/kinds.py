"""The six kinds of edit. Every method of the literature that is built here returns some of them.

Shapes: R rows, T tokens, I inputs, O outputs, H features of a state, L attention layers, N virtual tokens,
K key/value heads, D features of a head. Tensors of a stacked edit start with R, or with 1 for all rows.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lmtailor.base.sites import Sites
from lmtailor.base.views import LinearView, NormView
from lmtailor.core.errors import AdapterFileError
from lmtailor.edits.edit import Context, Edit, fixed, trained


@dataclass(frozen=True, kw_only=True, eq=False)
class ProjectionEdit(Edit):
    """Acts on a linear map: on its input, on its output, or on both.

    `changes_input`: whether `input` does anything. It cannot act on a part of a fused projection, whose parts share their input.
    """

    needs_shares: ClassVar[bool] = False
    """Whether `ctx.mean` is asked for."""
    changes_input: ClassVar[bool] = False
    changes_output: ClassVar[bool] = True
    """Whether `output` does anything."""
    foldable: ClassVar[bool] = True
    """Whether `fold` exists: the edit is a change of the weight and bias, and can be merged."""

    def input(self, x_RTI: Tensor, ctx: Context) -> Tensor:
        """The input that the projection sees, (R, T, I)."""
        return x_RTI

    @abstractmethod
    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """The output that the model sees, (R, T, O). `x_RTI` is what the projection saw."""

    @abstractmethod
    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias that do alone what projection and (solo) edit do together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HiddenEdit(Edit):
    """Acts on a hidden state: a sublayer's output before the residual add, a block's output, or the embeddings."""

    needs_shares: ClassVar[bool] = False
    """Whether `ctx.mean` is asked for."""
    needs_entry: ClassVar[bool] = False
    """Whether `x` and `residual` are read; they cost a capture each."""

    @abstractmethod
    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        """The new state (R, T, H).

        Args:
            x_RTH: the sublayer's input (after the norm in pre-norm models), if `needs_entry`; of embeddings the ids (R, T, 1).
            h_RTH: the sublayer's output.
            residual_RTH: what h is added to, if `needs_entry`; of embeddings None.
            norm: the norm after the residual add in post-norm models, else None.
            ctx: the pass.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedEdit(HiddenEdit):
    """Acts on the states of some tokens, by where they stand in the input or before it.

    Tokens behind a cache have no such place: while a model generates, what it has generated is left as it is.
    """

    def hidden(
        self, x_RTH: Tensor | None, h_RTH: Tensor, residual_RTH: Tensor | None, norm: NormView | None, ctx: Context
    ) -> Tensor:
        """h: what is called behind a cache."""
        return h_RTH

    @abstractmethod
    def placed(self, h_RTH: Tensor, places_RT3: Tensor, ctx: Context) -> Tensor:
        """The new state (R, T, H).

        Args:
            h_RTH: the state.
            places_RT3: each token's place, see `lmtailor.edits.places`.
            ctx: the pass.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class NormEdit(Edit):
    """Acts on a norm, from its input: gain and shift cannot be recovered from its output."""

    @abstractmethod
    def normed(self, x_RTH: Tensor, y_RTH: Tensor, norm: NormView, ctx: Context) -> Tensor:
        """The norm's new output (R, T, H) from its input x and its own output y."""

    @abstractmethod
    def fold(self, gain_H: Tensor, shift_H: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Gain and shift that do alone what norm and (solo) edit do together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PrefixEdit(Edit):
    """Keys and values that stand before the sequence's own in attention layers."""

    sites: tuple[str, ...]
    """Sublayer sites with an attention, in the order of `key_values`; `site` is their pattern."""
    length: int
    """Virtual tokens."""
    shift: bool = True
    """Whether the input's positions move on by `length`."""
    place: Literal["front", "infix"] = "front"
    """infix, in causal decoders: seen, and shifting, from the token on that predicts the answer's first."""

    pooled: bool = False
    """Whether the gate of a token is the mean over its sequence."""

    @abstractmethod
    def key_values(self) -> Tensor:
        """Keys and values (L, 2, K, N, D), with gradient where they are trained. Computed once a pass."""

    def gate(self) -> tuple[Tensor, Tensor] | None:
        """Weights (L, H) and biases (L,) of a factor σ(w · x + b) of keys and values, x being the attention's input; or None."""
        return None


Place = Literal["front", "before_gap", "after_gap", "infix"]
"""Where virtual tokens stand: before the input; beside the gap that a masked model fills (behind the text, if it has none);
or between the text and the answer of a causal decoder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptEdit(Edit):
    """Virtual tokens among the input embeddings of a stack; `site` is the stack's `embed` site."""

    length: int
    """Virtual tokens."""
    place: Place = "front"
    """Beside the gap only in encoders, infix only in causal decoders."""

    @abstractmethod
    def embeddings(self, embedding: Callable[[Tensor], Tensor]) -> Tensor:
        """Their embeddings (N, H), as the stack would take them.

        Args:
            embedding: from token ids to the stack's embeddings of words.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenPrompt(PromptEdit):
    """A hard prompt or demonstrations: real tokens, nothing trained."""

    ids: tuple[int, ...]
    """Token ids."""

    def embeddings(self, embedding: Callable[[Tensor], Tensor]) -> Tensor:
        """The words' embeddings (N, H)."""
        return embedding(torch.tensor(self.ids))


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightEdit(Edit):
    """Replaces a parameter of the base while attached. Rows of one batch cannot differ in it.

    `site` is the parameter's path in the model; parameters tied to it are replaced with it.
    """

    @abstractmethod
    def weight(self, base: Tensor) -> Tensor:
        """The parameter that takes the base's place, of its shape."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseWeight(WeightEdit):
    """A parameter trained whole."""

    value: Tensor = trained()
    """Of the base parameter's shape."""

    def weight(self, base: Tensor) -> Tensor:
        """The trained parameter itself."""
        return self.value


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseWeight(WeightEdit):
    """A parameter of which some entries are trained."""

    index: Tensor = fixed()
    """Positions in the flattened parameter (n,), int64, each once."""
    value: Tensor = trained()
    """The entries' new values (n,)."""

    def check(self, sites: Sites) -> None:
        """Positions must be those of entries, each once."""
        size = sites.parameters()[self.site].numel()
        index = self.index
        if len(index) and (int(index.min()) < 0 or int(index.max()) >= size or len(torch.unique(index)) < len(index)):
            raise AdapterFileError(f"The indices of {self.site} are not positions in its {size} numbers, each once.")

    def weight(self, base: Tensor) -> Tensor:
        """The base's parameter with the trained entries put in."""
        flat = base.detach().flatten().index_put((self.index,), self.value.to(base.dtype))
        return flat.view_as(base)
