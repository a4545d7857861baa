"""Tags: a tag for each word, from the state of one of its tokens.

    s = W · drop(h) + b

where h is the state of the word's first token, of its last, or the mean over all of them. Encoders read the first, as Devlin et
al. 2019 (arXiv:1810.04805, section 5.3): all tokens have seen the whole text, and none the word better than another. Elsewhere
the last is read, which alone has seen the whole word: in a causal decoder, and in the decoder of an encoder-decoder, where it is
read as Lewis et al. 2020 (arXiv:1910.13461, section 3.2) read BART: encoder and decoder are both fed with the whole text.

A word is what stands between spaces or line breaks, and the text is tokenised as it stands; a token belongs to the word of its
first character. Words that the model does not see, because the text was cut or because the tokenizer makes no token of them, have
no part in the loss and are answered with one tag for all; so there are always as many tags as words.

Shapes: N sequences, T tokens, P positions read in one, W words, M words of a batch that are seen, H features, C tags.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError, near
from lmtailor.readouts.batch import Batch, Encoded
from lmtailor.readouts.featured import Featured
from lmtailor.readouts.inquiry import Finding, Inquires
from lmtailor.readouts.labels import LabelSet, column_texts
from lmtailor.readouts.linear import blocks_read, linear_scores, linear_tensors, state_width, states_read
from lmtailor.readouts.plain import PlainInputs
from lmtailor.readouts.readout import Reading, check_dropout, check_lengths, input_form, read_states, virtual_tokens
from lmtailor.readouts.token_items import check_offsets, sequence_limit, token_item
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task

Piece = Literal["auto", "first", "last", "mean"]

OUTSIDE = "O"
"""The tag of words that belong to no span, in every scheme of tags for spans."""

_SPACE = " \t\r\n"
_WORD = re.compile(f"[^{_SPACE}]+")


@dataclass(frozen=True, kw_only=True)
class Tags:
    """A linear layer on the state of one token of each word.

    Weights start normal with the family's `initializer_range`, biases zero. Parameters: `head.weight` (C, H), `head.bias` (C).
    """

    piece: Piece = "auto"
    """Which token of a word is read: first, last, or the mean of all; auto: first in encoders, last elsewhere."""
    layer: int | None = None
    """The block whose output is read, as Python indexes lists; None: the last states, after the final norm."""
    dropout: float = 0.0
    """Probability at the input of the layer, in training."""
    max_length: int | None = None
    """Longest input (tokens); longer ones lose their end. None: what the model takes."""
    unseen: str | None = None
    """The tag of words that the model does not see; None: O if it is a tag, since a span nobody saw should not be made up, else
    the most frequent tag of train."""

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        check_lengths(max_length=self.max_length)

    def bind(
        self, base: Base, labels: LabelSet, rng: Generator | None, task: Task | None = None, *, reserve: int = 0
    ) -> "TagsReading":
        """See `Readout.bind`.

        Raises:
            InputError: there is no such block, no such tag, more than one text, or an impossible length.
            UnsupportedError: a task of another kind, or a tokenizer without offsets.
        """
        labels.check_kind("labelling", what='Tags is for tasks with a tag for each word (kind = "labelling")')
        if len(labels.texts) > 1:
            raise InputError(f"Tags are of the words of one text; the task has {' and '.join(labels.texts)}.")
        check_offsets(base)
        form = input_form(base)
        unseen = self._unseen(labels, task)
        piece = ("first" if base.kind == "encoder" else "last") if self.piece == "auto" else self.piece
        return TagsReading(
            readout=replace(self, unseen=unseen),
            label_set=labels,
            form=form,
            layers=blocks_read(base, self.layer),
            drop=self.dropout,
            tensors=linear_tensors(base, {"head": (len(labels.labels), state_width(base, self.layer))}, rng),
            inputs=PlainInputs(
                base.tokenizer,
                labels.texts,
                sequence_limit(base, form, self.max_length, reserve),
                form.segments,
                offsets=True,
            ),
            piece=piece,
            unseen=unseen,
        )

    def _unseen(self, labels: LabelSet, task: Task | None) -> str:
        """The tag of words that are not seen."""
        if self.unseen is not None:
            if self.unseen not in labels.labels:
                raise InputError(f"unseen={self.unseen!r} is no tag of the task. {near(self.unseen, labels.labels)}")
            return self.unseen
        if OUTSIDE in labels.labels:
            return OUTSIDE
        if task is None:
            raise InputError("The tag of words that are not seen is the most frequent one of a task. Give the task, or unseen=….")
        train = task.splits["train"].examples if "train" in task.splits else ()
        counts = Counter(tag for example in train for reference in example.references for tag in reference.split())
        return max(labels.labels, key=lambda tag: counts[tag])


@dataclass(frozen=True, kw_only=True, eq=False)
class TagsReading(Reading, Inquires, Featured):
    """`Tags` bound to a base; see `Reading`."""

    inputs: PlainInputs
    piece: Literal["first", "last", "mean"]
    unseen: str
    drop: float

    def encode(self, example: Example) -> Encoded:
        """An example as token ids. Raises as `inquiry`."""
        return self.inquiry(example).item

    def inquiry(self, example: Example) -> "TagInquiry":
        """See `Inquires.inquiry`.

        Raises:
            InputError: the column is missing, or the tokenizer makes no token of the text.
        """
        (text,) = column_texts(example, self.label_set.texts).values()
        tokens = self.inputs.encode((text,), example.id)
        assert tokens.offsets is not None
        pieces = pieces_of_words(text, tokens.offsets)
        seen = tuple(word for word, own in enumerate(pieces) if own)
        read = tuple(position for word in seen for position in self._read(pieces[word]))
        item = token_item(self.form, tokens.ids, tokens.segments, read, units=len(seen), cut=tokens.cut, name=example.id)
        return TagInquiry(item=item, labels=self.labels, words=len(pieces), seen=seen, unseen=self.unseen)

    def items(self, example: Example) -> tuple[Encoded, ...]:
        """The example with its tags; nothing where no word of it is seen.

        Raises:
            InputError: as `inquiry`; other than one reference, as many tags as words, or tags of the task.
        """
        asked = self.inquiry(example)
        if len(example.references) != 1:
            raise InputError(f"The {example.called} has {len(example.references)} references; a fit learns one tag a word.")
        tags = example.references[0].split()
        if len(tags) != asked.words:
            raise InputError(f"The {example.called} has {asked.words} words but {len(tags)} tags. Give each word a tag.")
        strange = next((tag for tag in tags if tag not in self.labels), None)
        if strange is not None:
            raise InputError(f"The {example.called} has the tag {strange!r}, none of the task's. {near(strange, self.labels)}")
        targets = tuple(self.labels.index(tags[word]) for word in asked.seen)
        return (replace(asked.item, targets=(targets,)),) if targets else ()

    def features(self, base: Base, states: States, batch: Batch) -> Tensor:
        """The states of the words that are seen (M, H), float32."""
        states_NTH = states_read(states, self.layers)
        extra = virtual_tokens(states_NTH, batch, self.virtual)
        if self.piece == "mean":
            return mean_states(states_NTH[:, extra:], batch.read_NP)
        return read_states(states_NTH, batch, extra)[batch.read_NP >= 0].float()

    def scores_from(self, features_MH: Tensor, *, training: bool = False) -> Tensor:
        """Scores (M, C) of words' states."""
        return linear_scores(self.tensors, features_MH, self.drop, training)

    def scores(self, base: Base, states: States, batch: Batch, *, training: bool = False, normalised: bool = False) -> Tensor:
        """One row a word, one column a tag (M, C); see `Reading.scores`."""
        scores_MC = self.scores_from(self.features(base, states, batch), training=training)
        return scores_MC.log_softmax(1) if normalised else scores_MC

    def _read(self, own: Sequence[int]) -> tuple[int, ...]:
        """The positions that are read of a word: one, or the first and the last of all that are."""
        if self.piece == "mean":
            return own[0], own[-1]
        return (own[0] if self.piece == "first" else own[-1],)


@dataclass(frozen=True, kw_only=True)
class TagInquiry:
    """See `Inquiry`."""

    item: Encoded
    labels: tuple[str, ...]
    words: int
    """W."""
    seen: tuple[int, ...]
    """The words that have scores, by their number."""
    unseen: str

    @property
    def items(self) -> tuple[Encoded, ...]:
        """The example."""
        return (self.item,)

    def finding(self, scores: Sequence[Tensor]) -> Finding:
        """The tag with the highest score of each word."""
        tags = [self.unseen] * self.words
        for word, best in zip(self.seen, scores[0].argmax(1).tolist(), strict=True):
            tags[word] = self.labels[best]
        return Finding(text=" ".join(tags), tags=tuple(tags))


def pieces_of_words(text: str, offsets: Sequence[tuple[int, int]]) -> list[list[int]]:
    """For each word of a text the positions of its tokens, in order; none where the tokenizer dropped or cut it.

    Args:
        text: words with spaces between.
        offsets: for each token its first character and the one after its last; a space before a word may belong to its token.
    """
    words = [match.span() for match in _WORD.finditer(text)]
    begins = [begin for begin, _ in words]
    pieces: list[list[int]] = [[] for _ in words]
    for position, (begin, end) in enumerate(offsets):
        first = end - len(text[begin:end].lstrip(_SPACE))
        word = bisect_right(begins, first) - 1
        if first < end and word >= 0:
            pieces[word].append(position)
    return pieces


def mean_states(states_NTH: Tensor, read_NP: Tensor) -> Tensor:
    """The means (M, H) over runs of tokens, in float32, of which P = 2 · W says where each begins and which is its last."""
    first_NW, last_NW = read_NP[:, 0::2], read_NP[:, 1::2]
    place_T = torch.arange(states_NTH.shape[1], device=states_NTH.device)
    inside_NWT = ((place_T >= first_NW[..., None]) & (place_T <= last_NW[..., None])).float()
    sums_NWH = inside_NWT @ states_NTH.float()
    return (sums_NWH / inside_NWT.sum(2, keepdim=True).clamp(min=1))[first_NW >= 0]
