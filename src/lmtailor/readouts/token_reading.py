"""What readings have in common that put a linear layer on the states of tokens and answer in one pass.

Shapes: N sequences, T tokens, H features of a state.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor
from torch.nn.functional import dropout, linear

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.batch import Batch, Encoded, InputForm, collate
from lmtailor.readouts.inquiry import Inquires, Inquiry
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import Readout, check_parameters, input_limit
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import TaskKind


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenReading(Inquires):
    """See `Reading`. Its parameters are `head.weight` (C, H), and `head.bias` (C) where it has one."""

    readout: Readout
    label_set: LabelSet
    form: InputForm
    layer: int | None
    """The block that is read, counted from 0; None: the last states."""
    drop: float
    tensors: Mapping[str, Tensor]

    @property
    def labels(self) -> tuple[str, ...]:
        """The tags, in the order of the scores; none of a span."""
        return self.label_set.labels

    @property
    def kind(self) -> TaskKind:
        """Of the task."""
        return self.label_set.kind

    @property
    def layers(self) -> tuple[int, ...]:
        """The block that is read, if it is not the last states."""
        return () if self.layer is None else (self.layer,)

    @property
    def reads_lm_head(self) -> bool:
        """It reads hidden states."""
        return False

    @property
    def virtual(self) -> bool:
        """False: virtual tokens are never read."""
        return False

    def parameters(self) -> Mapping[str, Tensor]:
        """The layer's tensors by name."""
        return self.tensors

    def with_parameters(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Reading.with_parameters`."""
        return replace(self, tensors=check_parameters(self.tensors, tensors))

    def prompt(self) -> tuple[int, ...]:
        """Nothing stands before the input."""
        return ()

    def variants(self) -> tuple[Self, ...]:
        """Itself."""
        return (self,)

    def check_fit(self) -> None:
        """It is there to be trained."""

    def encode(self, example: Example) -> Encoded:
        """An example as token ids; of several windows the first. Raises as `inquiry`."""
        return self.inquiry(example).items[0]

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Encoded examples as one batch."""
        return collate(items, self.form)

    @abstractmethod
    def inquiry(self, example: Example) -> Inquiry:
        """See `Inquires.inquiry`."""

    @abstractmethod
    def items(self, example: Example) -> tuple[Encoded, ...]:
        """See `Reading.items`."""

    @abstractmethod
    def scores(self, base: Base, states: States, batch: Batch, *, training: bool = False, normalised: bool = False) -> Tensor:
        """See `Reading.scores`."""

    def encoded(
        self,
        ids: tuple[int, ...],
        segments: tuple[int, ...] | None,
        positions: tuple[int, ...],
        *,
        units: int,
        cut: int,
        name: str,
    ) -> Encoded:
        """A sequence of which some tokens are read.

        A decoder is fed with the whole sequence behind its start, and what is read of a token is the state that was fed with it:
        one place on. So it has seen the token, as in other models.
        """
        decoder = None
        if self.form.decoder:
            start = ids[-1] if self.form.decoder_start is None else self.form.decoder_start
            decoder, positions = ((start, *ids),), tuple(position + 1 for position in positions)
        return Encoded(
            sequences=(ids,),
            segments=None if segments is None else (segments,),
            decoder=decoder,
            read=(positions,),
            units=units,
            cut=cut,
            id=name,
        )

    def read_from(self, states: States) -> Tensor:
        """The states that are read (N, T, H)."""
        return states.last_NTH if self.layer is None else states.layers[self.layer]

    def linear(self, x: Tensor, training: bool) -> Tensor:
        """W · drop(x) + b in float32, for states (…, H)."""
        weight, bias = self.tensors["head.weight"], self.tensors.get("head.bias")
        return linear(dropout(x.float(), self.drop, training), weight, bias).float()


def sequence_limit(base: Base, form: InputForm, max_length: int | None, reserve: int) -> int:
    """The longest sequence (tokens): see `input_limit`; a decoder is fed with one token more.

    Raises:
        InputError: as `input_limit`.
    """
    return input_limit(base, max_length, reserve + form.decoder)


def check_settings(dropout: float, max_length: int | None) -> None:
    """Refuse settings that no model has.

    Raises:
        InputError: dropout is no probability below 1, or there is no room for a token.
    """
    if not 0 <= dropout < 1:
        raise InputError(f"dropout must be at least 0 and less than 1; found {dropout}.")
    if max_length is not None and max_length < 1:
        raise InputError(f"max_length must be at least 1 token; found {max_length}.")


def check_offsets(base: Base) -> None:
    """See that the tokenizer says where in a text its tokens stand.

    Raises:
        UnsupportedError: it does not.
    """
    if not base.tokenizer.is_fast:
        raise UnsupportedError(
            f"The tokenizer of {base.source or base.family.name} does not say where in a text its tokens stand. Use a fast one "
            "(tokenizer.json)."
        )
