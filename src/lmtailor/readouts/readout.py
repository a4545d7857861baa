"""The contract of readouts: how a model's output becomes one score a label.

A `Readout` is settings and knows no model. Bound to a base and a set of labels it is a `Reading`, which makes inputs
from examples and scores from states. Between the two, anything may act on the trunk.

Shapes: B examples, k sequences an example, N = B · k, T tokens, H features, C labels (1 in regression).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError, StateError
from lmtailor.readouts.batch import Batch, Encoded, InputForm, collate
from lmtailor.readouts.labels import LabelSet
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task, TaskKind


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading(ABC):
    """A readout bound to a base and a set of labels.

    What is data about it is a field, and what most readings do in the same way stands here; a reading has what is its own.
    """

    readout: "Readout"
    """The settings that give this reading again without the task: what was chosen from its data is in them."""
    label_set: LabelSet
    """The labels it was bound to."""
    form: InputForm
    """How the base takes batches."""
    layers: tuple[int, ...] = ()
    """Numbers of the blocks whose outputs `scores` reads instead of the last states."""
    reads_lm_head: bool = False
    """Whether the scores come from the base's LM head, so that changing it changes them."""
    virtual: bool = False
    """Whether virtual tokens of a prompt are to be kept in the states, before the others, and pooled with them."""
    begins: bool = False
    """Whether input and answer are one text, as in causal models: the answer begins behind the first state that is read."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Its own trained tensors by name: leaves that require gradients, or meta tensors if bound without rng."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the scores; none where answers are no labels."""
        return self.label_set.labels

    @property
    def kind(self) -> TaskKind:
        """Of the task."""
        return self.label_set.kind

    def parameters(self) -> Mapping[str, Tensor]:
        """Its `tensors`."""
        return self.tensors

    def with_parameters(self, tensors: Mapping[str, Tensor]) -> Self:
        """The same reading with other values of its parameters.

        Raises:
            InputError: a name or a shape is not that of `parameters()`.
        """
        own = check_parameters(self.tensors, tensors)
        return replace(self, tensors=own) if own else self

    def prompt(self) -> tuple[int, ...]:
        """Token ids that stand before every input: attach them once, as a prefix."""
        return ()

    def variants(self) -> Sequence["Reading"]:
        """Readings that answer apart, whose probabilities are then averaged; itself where there is one."""
        return (self,)

    def check_fit(self) -> None:  # noqa: B027 - most can
        """See that what it answers can be trained.

        Raises:
            InputError: it cannot; the message says why and what to do instead.
        """

    @abstractmethod
    def encode(self, example: Example) -> Encoded:
        """An example as token ids, cut to the model's length."""

    def items(self, example: Example) -> Sequence[Encoded]:
        """What a fit learns of an example: the example itself, or one item for each of its references."""
        return (self.encode(example),)

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Encoded examples as one batch."""
        batch = collate(items, self.form)
        return replace(batch, answer_N=batch.read_NP[:, 0] + 1) if self.begins else batch

    @abstractmethod
    def scores(self, base: Base, states: States, batch: Batch, *, training: bool = False, normalised: bool = False) -> Tensor:
        """One row an answer, one column a label: (B, C), float32. An example has one answer; a text has its target tokens.

        Args:
            base: the base it was bound to.
            states: what the trunk gave on this batch's sequences; for a part of a larger run, see `take_rows`.
            batch: as `collate` or `join` made it.
            training: whether dropout acts; it draws from torch's own generator.
            normalised: whether scores must be log-probabilities, as those of a mixture's members must: of a head over the labels,
                of a verbalizer over the vocabulary. Numbers (regression) stay as they are.
        """


class Readout(Protocol):
    """Settings of a readout: a frozen dataclass of plain fields, so that a manifest holds it."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def bind(self, base: Base, labels: LabelSet, rng: Generator | None, task: Task | None = None, *, reserve: int = 0) -> Reading:
        """Tie the readout to a base and its labels.

        Args:
            base: the model.
            labels: what is to be told from what.
            rng: where trained tensors start from; None gives shapes without memory (device "meta").
            task: the data, for readouts that choose something from it.
            reserve: positions of the model that virtual tokens take (tokens); inputs are cut to what is left.

        Raises:
            InputError: the settings do not fit the labels or the data.
            UnsupportedError: the model cannot be read so.
        """


def input_form(base: Base) -> InputForm:
    """How a base takes batches.

    Token types are given where the model tells more than one apart. Without a padding token id 0 pads: what is
    padded is never attended to.

    Raises:
        InputError: an encoder-decoder whose configuration names no first token for the decoder.
    """
    config = base.trunk.config.to_dict()
    pad = base.tokenizer.pad_token_id if base.tokenizer.pad_token_id is not None else config.get("pad_token_id")
    decoder = base.kind == "encoder-decoder"
    wraps = base.family.name == "mbart"
    start = config.get("decoder_start_token_id")
    if decoder and not wraps and start is None:
        raise InputError(
            f"The configuration of {base.source or base.family.name} has no decoder_start_token_id, the decoder's first token."
        )
    return InputForm(
        pad_id=pad or 0,
        segments=base.kind == "encoder" and config.get("type_vocab_size", 0) > 1,
        decoder=decoder,
        decoder_start=start if decoder and not wraps else None,
    )


def input_limit(base: Base, max_length: int | None, reserve: int) -> int:
    """The longest input in tokens: the model's, or less where asked, without the reserved positions.

    Raises:
        InputError: more is asked than the model takes, or nothing is left.
    """
    if max_length is not None and max_length > base.max_length:
        raise InputError(f"max_length is {max_length}, but the model takes {base.max_length} tokens. Ask for that or less.")
    limit = min(max_length or base.max_length, base.max_length - reserve)
    if limit < 1:
        raise InputError(
            f"Virtual tokens take {reserve} of the model's {base.max_length} positions, which leaves none for the input."
        )
    return limit


def check_lengths(**lengths: int | None) -> None:
    """Refuse longest lengths that leave no room for a token.

    Args:
        lengths: name of a setting → tokens; None is no limit.

    Raises:
        InputError: one is below 1.
    """
    for name, value in lengths.items():
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1 token; found {value}.")


def check_dropout(dropout: float | None) -> None:
    """Refuse what is no probability below 1.

    Raises:
        InputError: it is none.
    """
    if dropout is not None and not 0 <= dropout < 1:
        raise InputError(f"dropout must be at least 0 and less than 1; found {dropout}.")


def take_rows(states: States, rows: slice | Tensor) -> States:
    """The states of some sequences of a run, such as one readout's part of joined batches."""
    return states.mapped(lambda value: value[rows])


def check_parameters(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The given values as leaves that require gradients, where the own ones are, after a check of names and shapes.

    Raises:
        InputError: they do not fit.
    """
    if set(own) != set(given):
        raise InputError(f"The readout has the parameters {sorted(own)}, but {sorted(given)} were given.")
    for name, tensor in own.items():
        if tensor.shape != given[name].shape:
            raise InputError(
                f"The readout's {name} has the shape {tuple(tensor.shape)}, but {tuple(given[name].shape)} was given."
            )
    return {
        name: given[name].detach().clone().to(given[name].device if tensor.is_meta else tensor.device).requires_grad_()
        for name, tensor in own.items()
    }


def virtual_tokens(states_NTH: Tensor, batch: Batch, virtual: bool) -> int:
    """How many virtual tokens stand before the input's own in the states.

    Raises:
        StateError: the states are not those of the batch.
    """
    extra = states_NTH.shape[1] - batch.width
    if states_NTH.shape[0] != batch.mask_NT.shape[0] or extra < 0 or (extra and not virtual):
        raise StateError(
            f"These states are {tuple(states_NTH.shape[:2])} sequences × tokens, the batch is "
            f"{(batch.mask_NT.shape[0], batch.width)}. Score a batch with the states of its own run."
        )
    return extra


def read_states(states_NTH: Tensor, batch: Batch, offset: int = 0) -> Tensor:
    """The states at the batch's read positions (N, P, H); those of absent positions are to be ignored."""
    rows_N1 = torch.arange(states_NTH.shape[0], device=states_NTH.device)[:, None]
    return states_NTH[rows_N1, (batch.read_NP + offset).clamp(min=0)]
