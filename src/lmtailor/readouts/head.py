"""Head: a classifier or a regressor on pooled hidden states. On a frozen trunk it is a probe.

    s = W · drop(z) + b,  or with one hidden layer  s = W · drop(tanh(U · drop(z) + c)) + b

where z is a pooled state. What pooling suits depends on the model: an encoder's tokens all see the whole text, and
their mean is a better start than a first token that was never trained to stand for it; in a causal decoder only the
last token has seen everything. Encoder-decoders are read at the decoder, which is fed with the input shifted right,
as BART and T5 do it for classification; so the last token is read there too.

Shapes: B examples, T tokens, H features of a state, C labels (1 in regression).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import dropout, linear

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.batch import Batch, Encoded
from lmtailor.readouts.featured import Featured
from lmtailor.readouts.labels import LabelSet, column_texts
from lmtailor.readouts.linear import blocks_read, linear_tensors, state_width, states_read
from lmtailor.readouts.native import NativeHead, native_dropout, native_head, native_scores, native_tensors
from lmtailor.readouts.plain import PlainInputs
from lmtailor.readouts.pooling import Pooled, pool, read_positions
from lmtailor.readouts.readout import Reading, check_dropout, check_lengths, input_form, input_limit
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task

Pooling = Literal["auto", "cls", "mean", "last", "native"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A linear layer, or one hidden layer and a linear one, on a pooled state; or the family's own head.

    One text, or two as the tokenizer joins a pair. Weights start normal with the family's `initializer_range`, biases
    zero. Parameters: `head.weight` (C, H), `head.bias` (C), and with a hidden layer of width F `hidden.weight` (F, H),
    `hidden.bias` (F), the head then reading F features. Native heads have their family's own names.
    """

    pooling: Pooling = "auto"
    """auto: mean in encoders, last elsewhere. cls: the first token (encoders). mean: all tokens, without padding. last: the
    last token. native: the family's own classification head, all of it trained; the only one that PEFT's SEQ_CLS can hold."""
    layer: int | None = None
    """The block whose output is read, as Python indexes lists; None: the last states, after the final norm."""
    hidden: int | None = None
    """Width of a hidden layer with tanh; None: a linear head."""
    dropout: float | None = None
    """Probability at the input of each linear layer, in training; None: 0, or the family's own with pooling=native."""
    max_length: int | None = None
    """Longest input (tokens); longer ones lose their end. None: what the model takes."""
    virtual: bool = False
    """Whether a prompt's virtual tokens are pooled with the others, and in "cls" instead, as PEFT does in encoders."""

    def __post_init__(self) -> None:
        if self.hidden is not None and self.hidden < 1:
            raise InputError(f"The hidden layer's width must be at least 1; found {self.hidden}.")
        check_dropout(self.dropout)
        check_lengths(max_length=self.max_length)
        if self.pooling == "native" and (self.layer is not None or self.hidden is not None):
            raise InputError("pooling=native is the family's own head, which reads the last states: leave layer and hidden out.")

    def bind(
        self, base: Base, labels: LabelSet, rng: Generator | None, task: Task | None = None, *, reserve: int = 0
    ) -> "HeadReading":
        """See `Readout.bind`.

        Raises:
            InputError: there is no such block, or an impossible length.
            UnsupportedError: answers that are texts, "cls" in a model whose first token sees nothing else, or "native" where the
                family has no head.
        """
        labels.check_kind("classification", "regression", what="A head gives labels or a number")
        native = native_head(base) if self.pooling == "native" else None
        form = input_form(base)
        limit = input_limit(base, self.max_length, reserve)
        pooled = self._pooled(base) if native is None or native.pooling is None else native.pooling
        layers = blocks_read(base, self.layer)
        if native is None:
            drop, tensors = self.dropout or 0.0, self._tensors(base, labels.num_outputs, rng)
        else:
            drop = native_dropout(native, base) if self.dropout is None else self.dropout
            tensors = native_tensors(native, base, labels.num_outputs, rng)
        return HeadReading(
            readout=self,
            label_set=labels,
            form=form,
            inputs=PlainInputs(base.tokenizer, labels.texts, limit, form.segments),
            pooled=pooled,
            eos=base.tokenizer.eos_token_id if pooled == "eos" else None,
            layers=layers,
            virtual=self.virtual,
            hidden=self.hidden is not None,
            drop=drop,
            native=native,
            tensors={name: (value if rng is None else value.to(base.device)).requires_grad_() for name, value in tensors.items()},
        )

    def _pooled(self, base: Base) -> Pooled:
        if self.pooling == "cls" and base.kind != "encoder":
            raise UnsupportedError(
                f"The first token of {base.family.name}, a {base.kind}, is read before any other: it cannot stand for the text. "
                "Use pooling=last or mean."
            )
        if self.pooling == "mean" or (self.pooling == "auto" and base.kind == "encoder"):
            return "mean"
        return "cls" if self.pooling == "cls" else "last"

    def _tensors(self, base: Base, outputs: int, rng: Generator | None) -> dict[str, Tensor]:
        width = state_width(base, self.layer)
        if self.hidden is None:
            return linear_tensors(base, {"head": (outputs, width)}, rng)
        return linear_tensors(base, {"hidden": (self.hidden, width), "head": (outputs, self.hidden)}, rng)


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadReading(Reading, Featured):
    """A head bound to a base; see `Reading`."""

    inputs: PlainInputs
    pooled: Pooled
    """What is pooled, with auto and native resolved."""
    eos: int | None
    hidden: bool
    """Whether there is a hidden layer."""
    drop: float
    native: NativeHead | None

    def encode(self, example: Example) -> Encoded:
        """An example as one sequence.

        Raises:
            InputError: a column is missing, or the tokenizer makes no token of the text.
        """
        texts = column_texts(example, self.label_set.texts)
        tokens = self.inputs.encode(tuple(texts.values()), example.id)
        return Encoded(
            sequences=(tokens.ids,),
            segments=None if tokens.segments is None else (tokens.segments,),
            read=(read_positions(self.pooled, tokens.ids, self.eos),),
            label=example.label,
            cut=tokens.cut,
            id=example.id,
        )

    def features(self, base: Base, states: States, batch: Batch) -> Tensor:
        """The pooled states (B, H), float32."""
        return pool(self.pooled, states_read(states, self.layers), batch, virtual=self.virtual)

    def scores_from(self, features_MH: Tensor, *, training: bool = False) -> Tensor:
        """Scores (B, C) of pooled states."""
        if self.native is not None:
            return native_scores(self.native, self.tensors, features_MH, self.drop, training).float()
        x = dropout(features_MH, self.drop, training)
        if self.hidden:
            x = torch.tanh(linear(x, self.tensors["hidden.weight"], self.tensors["hidden.bias"]))
            x = dropout(x, self.drop, training)
        return linear(x, self.tensors["head.weight"], self.tensors["head.bias"]).float()

    def scores(self, base: Base, states: States, batch: Batch, *, training: bool = False, normalised: bool = False) -> Tensor:
        """See `Reading.scores`."""
        scores_BC = self.scores_from(self.features(base, states, batch), training=training)
        return scores_BC.log_softmax(1) if normalised and self.kind == "classification" else scores_BC
