"""Chat: the model writes the assistant's turns of a conversation.

    L = −Σ_t log p(token_t | all tokens before it)      over the tokens of every turn of the assistant, their end tokens included

and over nothing else: not what the system and users say, not the marks of roles, not what a template writes behind an end token.
The text is one of two:

    template     the tokenizer's own chat template of the whole conversation, token by token what `apply_chat_template` gives
    plain        Alpaca's prompt, turn by turn, with the tokenizer's end token behind each answer (Taori et al. 2023,
                 github.com/tatsu-lab/stanford_alpaca, train.py). For a single instruction it is their text to the letter:

        Below is an instruction that describes a task. Write a response that appropriately completes the request.

        ### Instruction:
        {instruction}

        ### Response:{output}</s>

    With an input a part "### Input:" with it stands before the response, and the first sentence says so. What a system says takes
    the first sentence's place; further turns follow after an empty line. In a template an input follows its instruction after
    an empty line. Where a tokenizer would write an answer's beginning together with the colon before it, the two are tokenised
    apart, as they are when the answer is written.

Where an assistant's turn stands in a template's text is seen and not guessed: the template is rendered again with another word in
its place, and what differs is the turn. A template in which that does not hold, or which ends a turn without a special token, is
refused. Of a conversation that is too long the oldest exchanges go first, whole, while the system's turn stays; then its end.

In encoder-decoders the encoder reads all turns before the last one of the assistant, with the beginning of its own, and the
decoder writes that one and its end token; what the assistant said before is not learned. In the plain form the text has the
tokenizer's own special tokens around it. Of an answer that is too long the end is left out.

An infix stands before a conversation's first answer in training, and before the last one when it is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar, Literal

from torch import Generator
from transformers import PreTrainedTokenizerBase

from lmtailor.base.base import Base
from lmtailor.core.errors import DataError, InputError, UnsupportedError
from lmtailor.readouts.batch import Encoded
from lmtailor.readouts.chat import chat_end, chat_text
from lmtailor.readouts.cutting import Gapped, tokenise_within
from lmtailor.readouts.labels import LabelSet, column_texts
from lmtailor.readouts.prompts import special_tokens
from lmtailor.readouts.readout import check_lengths, input_form, input_limit
from lmtailor.readouts.seq2seq import decoder_start
from lmtailor.readouts.text import TextReading, check_writes
from lmtailor.readouts.words import plain_ids
from lmtailor.tasks.example import Example
from lmtailor.tasks.task import Task
from lmtailor.tasks.turns import Turn, turns_of

PLAIN = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
PLAIN_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


@dataclass(frozen=True)
class Chat:
    """Conversations whose assistant is the model; for tasks that `conversation_task` makes."""

    _: KW_ONLY
    form: Literal["auto", "template", "plain"] = "auto"
    """How turns are written; auto: the tokenizer's template where it has one, else plain."""
    system: str | None = None
    """What the system says first, where a conversation does not say it; None: nothing, or what the template says by itself."""
    max_length: int | None = None
    """Longest conversation (tokens); in encoder-decoders of what is read, and of what is written. None: what the model takes."""

    def __post_init__(self) -> None:
        check_lengths(max_length=self.max_length)

    def bind(
        self, base: Base, labels: LabelSet, rng: Generator | None, task: Task | None = None, *, reserve: int = 0
    ) -> TextReading:
        """See `Readout.bind`. Nothing here is random, so `rng` has no effect.

        Raises:
            InputError: a pair of texts, no end token, or a template that ends no turn.
            UnsupportedError: a task of another kind, a model that writes no text, or a tokenizer without what is asked for.
        """
        check_writes(base, labels)
        who, tokenizer = base.source or base.family.name, base.tokenizer
        if len(labels.texts) > 1:
            raise InputError(f"A conversation is one text column; the task has {', '.join(labels.texts)}. Use Text.")
        if not tokenizer.is_fast:
            raise UnsupportedError(f"The tokenizer of {who} does not say where its tokens stand in a text; a fast one does.")
        chosen = self
        if self.form == "auto":
            chosen = replace(self, form="plain" if tokenizer.chat_template is None else "template")
        end = tokenizer.eos_token_id if chosen.form == "plain" else chat_end(tokenizer)
        if end is None:
            raise InputError(f"The tokenizer of {who} has no end token, so no turn could end.")
        causal, form = base.kind == "decoder", input_form(base)
        before, behind = ((), ()) if chosen.form == "template" else special_tokens(tokenizer)
        pieces = ConversationPieces(
            writer=PlainTurns(tokenizer) if chosen.form == "plain" else TemplateTurns(tokenizer, int(end)),
            before=before,
            behind=() if causal else behind,
            decoder=None if causal else decoder_start(base, form, "answer"),
            end=int(end),
            column=labels.texts[0],
            tokenizer=tokenizer,
            system=self.system,
            limit=input_limit(base, self.max_length, reserve),
        )
        return TextReading(
            readout=chosen,
            label_set=labels,
            form=form,
            reads_lm_head=True,
            begins=causal,
            pieces=pieces,
            end=int(end),
        )


@dataclass(frozen=True, kw_only=True)
class Script:
    """A conversation as text."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()
    """Where each turn of the assistant begins and ends in it (characters), the end token included."""


@dataclass(frozen=True)
class PlainTurns:
    """Alpaca's prompt, turn by turn."""

    tokenizer: PreTrainedTokenizerBase

    divides: ClassVar[bool] = True
    """Whether turns are tokenised apart where a tokenizer would write their beginnings together with the marks before them."""

    def script(self, turns: Sequence[Turn], *, asks: bool) -> Script:
        """The text; with `asks` up to where the assistant begins."""
        first = next((turn for turn in turns if turn.role == "user"), turns[0])
        text, spans = (PLAIN_WITH_INPUT if first.input else PLAIN), []
        for turn in turns:
            if turn.role == "system":
                text = turn.content
            elif turn.role == "user":
                text += f"\n\n### Instruction:\n{turn.content}" + (f"\n\n### Input:\n{turn.input}" if turn.input else "")
            else:
                text += "\n\n### Response:"
                start = len(text)
                text += f"{turn.content}{self.tokenizer.eos_token}"
                spans.append((start, len(text)))
        return Script(text=text + ("\n\n### Response:" if asks else ""), spans=tuple(spans))


@dataclass(frozen=True)
class TemplateTurns:
    """The tokenizer's own template."""

    tokenizer: PreTrainedTokenizerBase
    end: int
    divides: ClassVar[bool] = False
    """See `PlainTurns`; a template's tokens are those of its whole text."""

    def script(self, turns: Sequence[Turn], *, asks: bool) -> Script:
        """The text; with `asks` up to where the assistant begins.

        Raises:
            InputError: the template refuses the turns, or does not show where the assistant's begin and end.
        """
        said = [{"role": turn.role, "content": _asked(turn)} for turn in turns]
        text = chat_text(self.tokenizer, said, asks=asks)
        own = [] if asks else [number for number, turn in enumerate(turns) if turn.role == "assistant"]
        return Script(text=text, spans=tuple(self._span(said, number, text) for number in own))

    def _span(self, said: list[dict[str, str]], number: int, text: str) -> tuple[int, int]:
        """Where a turn of the assistant stands in the text of the whole conversation."""
        probe = "lmtailor"
        while probe in text:
            probe += "x"
        other = chat_text(self.tokenizer, [*said[:number], {**said[number], "content": probe}, *said[number + 1 :]], asks=False)
        before = chat_text(self.tokenizer, said[:number], asks=True)
        head, found, tail = other.partition(probe)
        end, stop = str(self.tokenizer.convert_ids_to_tokens(self.end)), len(text) - len(tail)
        apart = found and len(head) <= stop and text.startswith(head) and text.endswith(tail)
        between, ended, _ = tail.partition(end)
        if not apart or not head.startswith(before):
            raise InputError(
                f"The tokenizer's chat template writes turn {number + 1}, the assistant's, so that it cannot be told from the "
                "turns around it. Use form='plain'."
            )
        if not ended or between.strip():
            raise InputError(
                f"The tokenizer's chat template does not end turn {number + 1}, the assistant's, with {end!r}. Use form='plain'."
            )
        return len(before), stop + len(between) + len(end)


@dataclass(frozen=True, kw_only=True)
class ConversationPieces:
    """See `Pieces`: conversations as tokens."""

    writer: PlainTurns | TemplateTurns
    column: str
    tokenizer: PreTrainedTokenizerBase
    system: str | None
    before: tuple[int, ...] = ()
    """Special tokens before the text; a template writes all of them itself."""
    behind: tuple[int, ...] = ()
    """Those behind it, in encoders."""
    decoder: tuple[int, ...] | None = None
    """What a decoder is fed with before it writes; None in causal models."""
    end: int
    """The token that ends an answer."""
    limit: int
    """Longest sequence (tokens)."""

    def input(self, example: Example, room: int) -> Encoded:
        """The turns before the answer, with `room` tokens left: the oldest exchanges go first, then the last question's end.

        Raises:
            InputError: the column is missing, the template refuses the turns, or nothing fits.
        """
        turns = self._turns(example)
        shown, whole, cut = self._within(turns, self.limit - room, example, asks=True)
        ids = whole.ids
        last = max(i for i, turn in enumerate(shown) if turn.role == "user")

        def tokenise(values: Mapping[str, str]) -> Gapped:
            asked = [*shown[:last], replace(shown[last], content=values["content"]), *shown[last + 1 :]]
            own = self._tokens(asked, example, asks=True).ids
            return Gapped(ids=own, gap=len(own))

        if len(ids) > self.limit - room:
            content, limit = {"content": shown[last].content}, self.limit - room
            text = tokenise_within(tokenise, content, self.tokenizer, limit, marked="content", name=example.called)
            ids, cut = text.ids, cut + text.cut
        return Encoded(sequences=(ids,), read=((len(ids) - 1,),), cut=cut, id=example.id)

    def items(self, example: Example) -> tuple[Encoded, ...]:
        """The conversation with each of its answers.

        Raises:
            InputError: as `input`; no answer, or none of which anything is left.
        """
        if not example.references:
            raise InputError(f"{_place(example)}: there is no answer to learn to write. Use a labelled split.")
        if self.decoder is not None:
            return tuple(self._answered(self.decoder, one, example) for one in example.references)
        turns = self._turns(example)
        return tuple(self._item([*turns, Turn(role="assistant", content=one)], example) for one in example.references)

    def _answered(self, decoder: tuple[int, ...], answer: str, example: Example) -> Encoded:
        """The turns before an answer for the encoder, and the answer for the decoder."""
        asked = self.input(example, 0)
        said = (*plain_ids(self.tokenizer, answer, target=True), self.end)
        if len(decoder) >= self.limit:
            raise InputError(f"{self.limit} tokens leave no room for an answer. Raise max_length.")
        kept, first = said[: self.limit - len(decoder)], len(decoder) - 1
        return Encoded(
            sequences=asked.sequences,
            decoder=(decoder + kept[:-1],),
            read=(tuple(range(first, first + len(kept))),),
            targets=(kept,),
            units=len(kept),
            cut=asked.cut + len(said) - len(kept),
            id=example.id,
        )

    def _item(self, turns: list[Turn], example: Example) -> Encoded:
        """A whole conversation, and its assistant's tokens."""
        _, whole, before = self._within(turns, self.limit, example, asks=False)
        kept = [place for place in whole.learned if place < self.limit]
        if not kept:
            raise DataError(
                f"{_place(example)}: the conversation has {len(whole.ids)} tokens, {self.limit} fit, and nothing of what the "
                "assistant says is among them. Shorten what is asked, raise max_length, or remove the record."
            )
        return Encoded(
            sequences=(whole.ids[: kept[-1]],),
            read=(tuple(place - 1 for place in kept),),
            targets=(tuple(whole.ids[place] for place in kept),),
            units=len(kept),
            cut=before + max(0, whole.learned[-1] + 1 - self.limit),
            id=example.id,
        )

    def _turns(self, example: Example) -> list[Turn]:
        turns = list(turns_of(column_texts(example, (self.column,))[self.column]))
        if self.system is not None and turns[0].role != "system":
            turns.insert(0, Turn(role="system", content=self.system))
        if all(turn.role != "user" for turn in turns):
            raise InputError(f"{_place(example)}: no user says anything.")
        return turns

    def _within(self, turns: Sequence[Turn], limit: int, example: Example, *, asks: bool) -> tuple[list[Turn], "Tokens", int]:
        """The turns that are left when the oldest exchanges went, all but the last; their tokens, and how many were cut off."""
        shown = list(turns)
        now = whole = self._tokens(shown, example, asks=asks)
        while now.needed > limit:
            first = 1 if shown[0].role == "system" else 0
            later = [i for i in range(first + 1, len(shown)) if shown[i].role == "user" and shown[i - 1].role == "assistant"]
            if not later:
                break
            del shown[first : later[0]]
            now = self._tokens(shown, example, asks=asks)
        return shown, now, len(whole.ids) - len(now.ids)

    def _tokens(self, turns: Sequence[Turn], example: Example, *, asks: bool) -> "Tokens":
        try:
            script = self.writer.script(turns, asks=asks)
        except InputError as error:
            raise DataError(f"{_place(example)}: {error}") from error
        out = self.tokenizer(script.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = (*self.before, *out["input_ids"], *self.behind), out["offset_mapping"]
        begun = {start for start, _ in offsets}
        if self.decoder is None and self.writer.divides and not all(start in begun for start, _ in script.spans):
            ids, own = self._in_parts(script)
            return Tokens(ids=ids, learned=() if asks else own)
        places = enumerate(offsets, start=len(self.before))
        own = tuple(place for place, (start, stop) in places if any(a <= start < stop <= b for a, b in script.spans))
        return Tokens(ids=ids, learned=() if asks else own)

    def _in_parts(self, script: Script) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What stands between the assistant's turns, and each of these, tokenised apart; and the places of these."""
        ids, end = self.before, 0
        learned: list[int] = []
        for start, stop in (*script.spans, (len(script.text), len(script.text))):
            ids += plain_ids(self.tokenizer, script.text[end:start])
            said = plain_ids(self.tokenizer, script.text[start:stop]) if stop > start else ()
            learned += range(len(ids), len(ids) + len(said))
            ids, end = ids + said, stop
        return ids, tuple(learned)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A conversation as tokens."""

    ids: tuple[int, ...]
    learned: tuple[int, ...]
    """Places of those that the assistant says. In a template, a token that also holds the end of the mark before is not among
    them."""

    @property
    def needed(self) -> int:
        """How many there are up to the last that is learned; all of them where none is."""
        return self.learned[-1] + 1 if self.learned else len(self.ids)


def _asked(turn: Turn) -> str:
    return f"{turn.content}\n\n{turn.input}" if turn.input else turn.content


def _place(example: Example) -> str:
    return example.place or f"The {example.called}"
