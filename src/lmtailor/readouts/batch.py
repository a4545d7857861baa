"""Examples as token ids, and batches of them as tensors.

Shapes: B examples, k sequences an example, N = B · k sequences, T tokens, P positions read in a sequence.
The k sequences of one example stand together, in order. Padding is on the right, always: positions then count from
the left and mean the same in a batch, alone, and in a longer batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmtailor.core.errors import InputError

Label = int | float | None
"""Classification: the index of the label. Regression: the number. None: not known."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One example as token ids."""

    sequences: tuple[tuple[int, ...], ...]
    """k sequences; k is 1 except where each choice needs a run of its own."""
    segments: tuple[tuple[int, ...], ...] | None = None
    """Token types, shaped as `sequences`; None where the model has none."""
    read: tuple[tuple[int, ...], ...]
    """For each sequence the positions whose states are read; none where all tokens are pooled."""
    targets: tuple[tuple[int, ...], ...] = ()
    """For each sequence what is expected: the token ids at `read`, the number of each word's tag, or of a span the places in
    `read` of its first and its last token; () where nothing is known."""
    decoder: tuple[tuple[int, ...], ...] | None = None
    """Encoder-decoders: what the decoder is fed with beside each sequence; None feeds the sequence, shifted right by one.
    `read` counts the decoder's tokens."""
    label: Label = None
    units: int = 1
    """How many rows of scores it has, each with a loss of its own: target tokens of a text that is written, words that get a tag,
    two ends of a span, else 1."""
    divisors: tuple[float, ...] = ()
    """For each sequence a number that its score is divided by, such as a length; () where there is none."""
    cut: int = 0
    """Tokens that were cut off because the input was longer than the model takes."""
    id: str = ""
    """The name of the example, for messages and records."""

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(len, self.sequences))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, those that a decoder is fed with among them."""
        return max(map(len, (*self.sequences, *(self.decoder or ()))))

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(map(len, self.sequences))


@dataclass(frozen=True, kw_only=True)
class InputForm:
    """What a trunk takes besides token ids, and how it is padded."""

    pad_id: int
    segments: bool
    """Whether it takes token types."""
    decoder: bool = False
    """Whether it has a decoder, which is fed with the input shifted right by one unless an example says otherwise."""
    decoder_start: int | None = None
    """The decoder's first token; None takes each sequence's own last token (mBART: its language)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Examples as tensors. Entries that pad are 0 in the attention mask."""

    inputs: Mapping[str, Tensor]
    """The trunk's arguments by name, each (N, T); a decoder's have a T of their own."""
    per_row: int
    """k: sequences an example."""
    read_NP: Tensor
    """Positions that are read; −1 where a sequence reads fewer than P."""
    targets_NP: Tensor
    """What is expected, as in `Encoded.targets`; −1 where there is none."""
    labels_B: Tensor | None
    """Label indices (int64) or numbers (float32); None unless all examples have one."""
    tokens: int
    """Tokens in the sequences, without padding."""
    ids: tuple[str, ...]
    """Names of the examples."""
    units: tuple[int, ...]
    """How many rows of scores each example has."""
    divisor_N: Tensor | None = None
    """What the score of each sequence is divided by; None where there is nothing."""
    answer_N: Tensor | None = None
    """Where causal models begin to answer: the index of the first token behind the text; None, or -1, where all is text."""

    @property
    def size(self) -> int:
        """B: how many examples."""
        return len(self.ids)

    @property
    def mask_NT(self) -> Tensor:
        """The attention mask."""
        return self.inputs["attention_mask"]

    @property
    def width(self) -> int:
        """Tokens of the states that are read: those of the decoder, where there is one."""
        return self.inputs.get("decoder_input_ids", self.mask_NT).shape[1]

    @property
    def state_mask_NT(self) -> Tensor:
        """Which states are of no padding: the attention mask, as wide as the states.

        A decoder that is fed with the shifted input has as many tokens as it.
        """
        return torch.nn.functional.pad(self.mask_NT, (0, self.width - self.mask_NT.shape[1]))

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with all tensors on a device."""
        return replace(
            self,
            inputs={name: value.to(device) for name, value in self.inputs.items()},
            read_NP=self.read_NP.to(device),
            targets_NP=self.targets_NP.to(device),
            labels_B=None if self.labels_B is None else self.labels_B.to(device),
            divisor_N=None if self.divisor_N is None else self.divisor_N.to(device),
            answer_N=None if self.answer_N is None else self.answer_N.to(device),
        )

    def rows(self, examples: Sequence[int]) -> "Batch":
        """Only these examples, in this order, as wide as before."""
        chosen = torch.tensor(list(examples), dtype=torch.long, device=self.read_NP.device)
        sequences = sequence_rows(chosen, self.per_row)
        inputs = {name: value[sequences] for name, value in self.inputs.items()}
        return replace(
            self,
            inputs=inputs,
            read_NP=self.read_NP[sequences],
            targets_NP=self.targets_NP[sequences],
            labels_B=None if self.labels_B is None else self.labels_B[chosen],
            tokens=int(inputs["attention_mask"].sum()),
            ids=tuple(self.ids[i] for i in chosen.tolist()),
            units=tuple(self.units[i] for i in chosen.tolist()),
            divisor_N=None if self.divisor_N is None else self.divisor_N[sequences],
            answer_N=None if self.answer_N is None else self.answer_N[sequences],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined:
    """Batches of several readouts as one: the trunk runs once on `inputs`, then each readout scores its own part."""

    inputs: Mapping[str, Tensor]
    """The trunk's arguments, each (ΣN, T) with T the longest part's; a decoder's have a T of their own."""
    parts: tuple[Batch, ...]
    """The batches, padded to it."""
    rows: tuple[slice, ...]
    """For each part its sequences in `inputs`."""

    @property
    def answer_N(self) -> Tensor | None:
        """Where the answers of all parts begin."""
        if all(part.answer_N is None for part in self.parts):
            return None
        return torch.cat(
            [torch.full_like(part.mask_NT[:, 0], -1) if part.answer_N is None else part.answer_N for part in self.parts]
        )


def sequence_rows(examples: Tensor, per_row: int) -> Tensor:
    """The indices of the sequences of these examples: (B,) -> (B · k,)."""
    return (examples[:, None] * per_row + torch.arange(per_row, device=examples.device)).flatten()


def collate(items: Sequence[Encoded], form: InputForm) -> Batch:
    """Pad examples to the longest and stack them.

    Raises:
        InputError: no items, or items of different readouts, with different numbers of sequences (`join` their batches).
    """
    if not items:
        raise InputError("A batch needs at least one example; found none.")
    counts = {len(item.sequences) for item in items}
    if len(counts) > 1:
        raise InputError(
            f"A batch has one number of sequences an example; found {sorted(counts)}. Collate each readout's own examples."
        )
    sequences = [sequence for item in items for sequence in item.sequences]
    inputs = {"input_ids": _padded(sequences, form.pad_id), "attention_mask": _padded([(1,) * len(s) for s in sequences], 0)}
    if form.segments:
        inputs["token_type_ids"] = _padded([segment for item in items for segment in _segments(item)], 0)
    if form.decoder:
        inputs["decoder_input_ids"] = _padded([tokens for item in items for tokens in _decoded(item, form)], form.pad_id)
    width = max((len(read) for item in items for read in item.read), default=0)
    targets = [target for item in items for target in (item.targets or ((),) * len(item.sequences))]
    return Batch(
        inputs=inputs,
        per_row=counts.pop(),
        read_NP=_padded([read for item in items for read in item.read], -1, width),
        targets_NP=_padded(targets, -1, max(width, *map(len, targets))),
        labels_B=_labels(items),
        tokens=sum(item.tokens for item in items),
        ids=tuple(item.id for item in items),
        units=tuple(item.units for item in items),
        divisor_N=torch.tensor([number for item in items for number in item.divisors]) if items[0].divisors else None,
    )


def join(batches: Sequence[Batch], form: InputForm) -> Joined:
    """Several batches as one, each padded to the longest.

    Raises:
        InputError: no batches.
    """
    if not batches:
        raise InputError("There are no batches to join.")
    widths = {name: max(batch.inputs[name].shape[1] for batch in batches) for name in batches[0].inputs}
    parts = tuple(_widened(batch, widths, form) for batch in batches)
    inputs = {name: torch.cat([part.inputs[name] for part in parts]) for name in parts[0].inputs}
    ends = torch.tensor([part.mask_NT.shape[0] for part in parts]).cumsum(0).tolist()
    rows = tuple(slice(end - part.mask_NT.shape[0], end) for end, part in zip(ends, parts, strict=True))
    return Joined(inputs=inputs, parts=parts, rows=rows)


def by_item(scores_MC: Tensor, items: Sequence[Encoded]) -> tuple[Tensor, ...]:
    """A batch's scores as those of each of its items: (units, C)."""
    return torch.split(scores_MC, [item.units for item in items])


def _padded(rows: Sequence[Sequence[int]], value: int, width: int | None = None) -> Tensor:
    width = max(map(len, rows)) if width is None else width
    return torch.tensor([[*row, *([value] * (width - len(row)))] for row in rows], dtype=torch.long).reshape(len(rows), width)


def _segments(item: Encoded) -> Sequence[Sequence[int]]:
    return item.segments if item.segments is not None else [(0,) * len(sequence) for sequence in item.sequences]


def _decoded(item: Encoded, form: InputForm) -> Sequence[Sequence[int]]:
    return [_shifted(sequence, form) for sequence in item.sequences] if item.decoder is None else item.decoder


def _shifted(sequence: Sequence[int], form: InputForm) -> Sequence[int]:
    """The decoder's input: what stands before each token. States at a position have then seen the tokens before it."""
    start = sequence[-1] if form.decoder_start is None else form.decoder_start
    return (start, *sequence[:-1])


def _labels(items: Sequence[Encoded]) -> Tensor | None:
    labels = [item.label for item in items]
    known = [label for label in labels if label is not None]
    if len(known) < len(labels):
        return None
    return torch.tensor(known, dtype=torch.float32 if any(isinstance(label, float) for label in known) else torch.long)


def _widened(batch: Batch, widths: Mapping[str, int], form: InputForm) -> Batch:
    fill = {"input_ids": form.pad_id, "decoder_input_ids": form.pad_id}
    pad = torch.nn.functional.pad
    inputs = {
        name: pad(value, (0, widths[name] - value.shape[1]), value=fill.get(name, 0)) for name, value in batch.inputs.items()
    }
    return replace(batch, inputs=inputs)
