"""Text: the model writes its answer.

    L = −Σ_i log p(y_i | input, y_1 … y_{i−1})

over the tokens of the target alone, its end token included; a step averages over all target tokens in it. Logits are computed
where a target token is expected and nowhere else, in chunks (see `likelihood`), so that no batch × length × vocabulary is ever in
memory.

    causal               the input and the target are one text; the target follows the input directly
    encoder-decoder      the encoder reads the input, the decoder writes the target

An example with several references is learned from as one item each; see `Training.share_inputs` for running their input once.

Shapes: N sequences, T tokens, P positions read in one, M target tokens of a batch, H features, V vocabulary.
"""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Protocol

from torch import Generator, Tensor
from transformers import PreTrainedTokenizerBase

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.batch import Batch, Encoded
from lmtailor.readouts.chat import ChatPrompter, chat_end
from lmtailor.readouts.cutting import Gapped, tokenise_within
from lmtailor.readouts.labels import LabelSet, column_texts
from lmtailor.readouts.likelihood import token_log_probabilities
from lmtailor.readouts.pattern import Pattern, parse_pattern
from lmtailor.readouts.prompts import AnswerPrompter, CausalPrompter, Prompter
from lmtailor.readouts.readout import Reading, check_lengths, input_form, input_limit, read_states, virtual_tokens
from lmtailor.readouts.seq2seq import decoder_start
from lmtailor.readouts.words import pieces_behind, plain_ids
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task


@dataclass(frozen=True)
class Text:
    """A pattern for the input, and one for what is written behind it."""

    pattern: str
    """The input, such as "Data: {mr}\\nText:"; as a verbalizer's pattern, without a gap. A column that may lose its end is marked
    :cut; where none is, the longest loses first."""
    _: KW_ONLY
    target: str | None = None
    """What is written, with the column of the references in it, such as " {ref}". None: the reference itself, in causal models
    after a space unless the pattern ends with one, or with a line break, or `chat` is on."""
    chat: bool = False
    """Whether the input is what a user says, in the tokenizer's own chat template, and the target the assistant's turn."""
    system: str | None = None
    """With chat: what the system says first; None: what the template says by itself."""
    max_length: int | None = None
    """Longest input with its target (tokens); of a longer one columns lose their ends. None: what the model takes."""
    max_target: int | None = None
    """Longest target (tokens, the end token included); a longer one loses its end, and then is not learned to end. None: as long
    as they are; one that leaves no room for an input is refused."""

    def __post_init__(self) -> None:
        if "{mask}" in self.pattern:
            raise InputError(f"Text is written behind its pattern; leave {{mask}} out of {self.pattern!r}.")
        if parse_pattern(self.pattern + "{mask}").slots:
            raise InputError(f"{{trigger}} is for a verbalizer's pattern; leave it out of {self.pattern!r}.")
        check_lengths(max_length=self.max_length, max_target=self.max_target)
        if self.system is not None and not self.chat:
            raise InputError("system is a turn of a chat. Set chat=true, or write it into the pattern.")

    def bind(
        self, base: Base, labels: LabelSet, rng: Generator | None, task: Task | None = None, *, reserve: int = 0
    ) -> "TextReading":
        """See `Readout.bind`. Nothing here is random, so `rng` has no effect.

        Raises:
            InputError: columns that the data lacks, a target without the references, no end token.
            UnsupportedError: a task of another kind, a model that writes no text, or a tokenizer without chat template.
        """
        check_writes(base, labels)
        pattern = parse_pattern(self.pattern + "{mask}")
        pattern.check_columns(labels.columns)
        causal, form = base.kind == "decoder", input_form(base)
        end = chat_end(base.tokenizer) if self.chat else base.tokenizer.eos_token_id
        if end is None:
            raise InputError(f"The tokenizer of {base.source or base.family.name} has no end token, so no text could end.")
        prompter: Prompter = AnswerPrompter(base.tokenizer, pattern)
        if self.chat:
            prompter = ChatPrompter(base.tokenizer, pattern, self.system)
        elif causal:
            prompter = CausalPrompter(base.tokenizer, pattern)
        decoder = None if causal else decoder_start(base, form, "answer")
        limit = input_limit(base, self.max_length, reserve)
        pieces = PatternPieces(
            readout=self,
            column=labels.target,
            tokenizer=base.tokenizer,
            prompter=prompter,
            pattern=pattern,
            target=self._target(pattern, labels.target, behind=causal and not self.chat),
            end=int(end),
            decoder=decoder,
            limit=limit,
        )
        return TextReading(
            readout=self, label_set=labels, form=form, reads_lm_head=True, begins=causal, pieces=pieces, end=int(end)
        )

    def _target(self, pattern: Pattern, column: str, *, behind: bool) -> Pattern:
        """The target's pattern; with `behind` it follows the input's own text."""
        text = self.target
        if text is None:
            text = (" " if behind and not pattern.edge[0].endswith((" ", "\n")) else "") + f"{{{column}}}"
        target = parse_pattern(text + "{mask}")
        if target.fields != (column,) or target.slots or target.cut:
            found = ", ".join(f"{{{name}}}" for name in target.fields) or "no column"
            raise InputError(f"The target is a pattern of the references alone, such as ' {{{column}}}'; {text!r} has {found}.")
        return target


class Pieces(Protocol):
    """How examples become what is run: the way from texts to tokens, of `Text` a pattern, of `Chat` a conversation."""

    @property
    def limit(self) -> int:
        """Longest sequence (tokens)."""

    @property
    def decoder(self) -> tuple[int, ...] | None:
        """What a decoder is fed with before it writes; None in causal models."""

    def input(self, example: Example, room: int) -> Encoded:
        """See `TextReading.input`."""

    def items(self, example: Example) -> tuple[Encoded, ...]:
        """See `TextReading.items`."""


def check_writes(base: Base, labels: LabelSet) -> None:
    """See that a model can write, and is asked to.

    Raises:
        UnsupportedError: a task of another kind, or a model that writes no text.
    """
    labels.check_kind("generation", what='Text is for tasks whose answers are written (kind = "generation")')
    if base.kind == "encoder" or not base.has_lm_head:
        name, why = base.source or base.family.name, "fills gaps" if base.kind == "encoder" else "has no LM head"
        raise UnsupportedError(f"{name} {why}, so it writes no text. Use a causal or an encoder-decoder model with LM head.")


@dataclass(frozen=True, kw_only=True, eq=False)
class TextReading(Reading):
    """A readout that writes, bound to a base; see `Reading`."""

    pieces: Pieces
    end: int
    """The token that ends a target."""
    every_word: bool = False
    """Whether scores are the log-probabilities of all words, and not of the target's alone: some losses need them."""

    def over_all_words(self) -> "TextReading":
        """The same reading with the log-probabilities of all words."""
        return replace(self, every_word=True)

    def encode(self, example: Example) -> Encoded:
        """The input alone, as it is when something is to be written behind it."""
        return self.input(example, 0)

    def input(self, example: Example, room: int) -> Encoded:
        """The input with at least `room` tokens left behind it.

        Raises:
            InputError: a column is missing, the text does not fit, nothing would, or there is no token to begin with.
        """
        if room >= self.pieces.limit:
            raise InputError(
                f"{room} tokens are to be written (max_new_tokens), but input and answer have {self.pieces.limit} together. Ask "
                "for less, or raise the readout's max_length."
            )
        return self.pieces.input(example, room)

    def items(self, example: Example) -> tuple[Encoded, ...]:
        """The input with each of its references.

        Raises:
            InputError: as `input`; no reference, or one that the tokenizer does not keep apart from the input, or that leaves no
                room for it.
        """
        return self.pieces.items(example)

    def scores(self, base: Base, states: States, batch: Batch, *, training: bool = False, normalised: bool = False) -> Tensor:
        """log p of each target token of the batch, row after row (M, 1); with `every_word` of all words there (M, V).

        They are log-probabilities, whether asked to be `normalised` or not, and there is no dropout of its own.
        """
        there_NP = batch.targets_NP >= 0
        extra = virtual_tokens(states.last_NTH, batch, False)
        states_MH = read_states(states.last_NTH, batch, extra)[there_NP]
        if self.every_word:
            return base.lm_logits(states_MH).float().log_softmax(-1)
        return token_log_probabilities(base, states_MH, batch.targets_NP[there_NP])[:, None]


@dataclass(frozen=True, kw_only=True)
class PatternPieces:
    """See `Pieces`: a pattern for the input, and one for the target."""

    readout: Text
    column: str
    """Name of the references."""
    tokenizer: PreTrainedTokenizerBase
    prompter: Prompter
    pattern: Pattern
    target: Pattern
    end: int
    """The token that ends a target."""
    decoder: tuple[int, ...] | None
    """What a decoder is fed with before a target; None in causal models."""
    limit: int
    """Longest sequence (tokens)."""

    def input(self, example: Example, room: int) -> Encoded:
        """The input with at least `room` tokens left behind it.

        Raises:
            InputError: a column is missing, the text does not fit, or there is no token to begin with.
        """
        text = self._text(example, room)
        return Encoded(sequences=(text.ids,), read=((len(text.ids) - 1,),), cut=text.cut, id=example.id)

    def items(self, example: Example) -> tuple[Encoded, ...]:
        """The input with each of its references.

        Raises:
            InputError: as `input`; no reference, or one that the tokenizer does not keep apart from the input, or that leaves no
                room for it.
        """
        if not example.references:
            raise InputError(f"The {example.called} has no reference to learn to write. Use a labelled split.")
        return tuple(self._item(example, reference) for reference in example.references)

    def _item(self, example: Example, reference: str) -> Encoded:
        """The input with one reference."""
        pieces = self._pieces(example, reference)
        kept = pieces if self.readout.max_target is None else pieces[: self.readout.max_target]
        start = () if self.decoder is None else self.decoder
        if len(start) + len(kept) > self.limit or (self.decoder is None and len(kept) >= self.limit):
            raise InputError(
                f"A reference of {example.called} has {len(kept)} tokens, and the model takes {self.limit} with the input. "
                "Set max_target to cut references, or leave this example out."
            )
        text = self._text(example, len(kept))
        if self.decoder is None:
            sequence, decoder, first = text.ids + kept[:-1], None, len(text.ids) - 1
        else:
            sequence, decoder, first = text.ids, (start + kept[:-1],), len(start) - 1
        return Encoded(
            sequences=(sequence,),
            decoder=decoder,
            read=(tuple(range(first, first + len(kept))),),
            targets=(kept,),
            units=len(kept),
            cut=text.cut + len(pieces) - len(kept),
            id=example.id,
        )

    def _text(self, example: Example, room: int) -> Gapped:
        """The input as tokens, cut so that `room` more fit."""
        values = column_texts(example, self.pattern.fields)
        limit = self.limit if self.decoder is not None else self.limit - room
        text = tokenise_within(self.prompter.tokens, values, self.tokenizer, limit, marked=self.pattern.cut, name=example.called)
        if not text.ids:
            raise InputError(f"The input of {example.called} is empty, and a model writes only behind something.")
        return text

    def _pieces(self, example: Example, reference: str) -> tuple[int, ...]:
        """A target as tokens, with the end token."""
        text = self.target.render({self.column: reference})[0]
        if self.decoder is not None:
            return (*plain_ids(self.tokenizer, text, target=True), self.end)
        if self.readout.chat:
            return (*plain_ids(self.tokenizer, text), self.end)
        pieces = pieces_behind(self.tokenizer, self.pattern, text)
        if pieces is None:
            raise InputError(
                f"The tokenizer writes a reference of {example.called} together with what stands before it in "
                f"{self.readout.pattern!r}. Begin the target with a space or a line break."
            )
        return (*pieces, self.end)
