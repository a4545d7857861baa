"""From a pattern and the texts of columns to token ids with a gap, as masked, causal and encoder-decoder models take them.

Whitespace is exact: what is tokenised is always the whole text, or its end after a part whose tokens do not change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.cutting import Gapped
from lmtailor.readouts.demonstrations import Shown
from lmtailor.readouts.pattern import Pattern
from lmtailor.readouts.slots import filled, holder
from lmtailor.readouts.words import plain_ids


class Prompter(Protocol):
    """Makes token ids of a pattern."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's."""

    def tokens(self, values: Mapping[str, str]) -> Gapped:
        """The input of one example, uncut."""

    def prompt(self) -> tuple[int, ...]:
        """What stands before every input and is not in `tokens`."""


def solved(pattern: Pattern, shown: Sequence[Shown], first_word: Mapping[str, str]) -> list[str]:
    """Demonstrations as text: the pattern with the label's first word in the gap."""
    texts = []
    for one in shown:
        before, after = pattern.render(one.fields)
        texts.append(before + first_word[one.label] + after)
    return texts


@dataclass(frozen=True)
class MaskedPrompter:
    """For masked LMs, and encoders whose decoder fills a sentinel: one text with one special token in the gap.

    Demonstrations stand before it in the same sequence.
    """

    tokenizer: PreTrainedTokenizerBase
    pattern: Pattern
    lead: str = ""
    """The demonstrations, each with the separator after it."""
    sentinel: str | None = None
    """What stands in the gap; None: the tokenizer's mask token."""
    trigger: tuple[int, ...] = ()
    """What stands in the pattern's slots (token ids)."""

    def __post_init__(self) -> None:
        if self.mark is None or not self.tokenizer.is_fast:
            raise UnsupportedError("A pattern needs a tokenizer with a mask token and offsets (a fast one) in masked models.")

    @property
    def mark(self) -> str | None:
        """The special token in the gap."""
        return self.sentinel or self.tokenizer.mask_token

    def tokens(self, values: Mapping[str, str]) -> Gapped:
        """The whole sequence. The mask is found by its place in the text: the same word in a column is not taken for it."""
        mask, slot = str(self.mark), holder(self.tokenizer)
        before, after = self.pattern.render(values, slot)
        start = len(self.lead) + len(before)
        out = self.tokenizer(f"{self.lead}{before}{mask}{after}", return_attention_mask=False, verbose=False)
        gap = out.char_to_token(start)
        left, right = self.pattern.slot_places(values, slot)
        places = [len(self.lead) + place for place in left] + [start + len(mask) + place for place in right]
        ids, slots = filled(self.tokenizer, out, places, self.trigger)
        if gap is None or ids[gap] != self.tokenizer.convert_tokens_to_ids(mask):
            raise InputError(
                f"The tokenizer does not keep the gap apart in {before[-20:] + mask + after[:20]!r}. Put spaces around {{mask}}."
            )
        return Gapped(ids=ids, gap=gap, slots=slots)

    def prompt(self) -> tuple[int, ...]:
        """Nothing: in a bidirectional model all is one sequence."""
        return ()


@dataclass(frozen=True)
class AnswerPrompter:
    """For encoders whose decoder writes the answer: the text up to the gap, with demonstrations before it."""

    tokenizer: PreTrainedTokenizerBase
    pattern: Pattern
    lead: str = ""
    """The demonstrations, each with the separator after it."""
    trigger: tuple[int, ...] = ()
    """What stands in the pattern's slots (token ids)."""

    def __post_init__(self) -> None:
        check_last(self.pattern, "A decoder writes its answer")

    def tokens(self, values: Mapping[str, str]) -> Gapped:
        """The encoder's input, with the tokenizer's special tokens; a space before the gap is left out."""
        slot = holder(self.tokenizer)
        text = self.lead + self.pattern.render(values, slot)[0].removesuffix(" ")
        places = [len(self.lead) + place for place in self.pattern.slot_places(values, slot)[0]]
        out = self.tokenizer(text, return_attention_mask=False, verbose=False)
        ids, slots = filled(self.tokenizer, out, places, self.trigger)
        return Gapped(ids=ids, gap=len(ids), slots=slots)

    def prompt(self) -> tuple[int, ...]:
        """Nothing: in the encoder all is one sequence."""
        return ()


@dataclass(frozen=True)
class CausalPrompter:
    """For causal LMs: the text up to the gap; demonstrations are a prompt of their own, equal for all inputs.

    The prompt ends before the last separator, and the input begins with it: a tokenizer may write the separator and
    what follows it as other tokens than the separator alone. So tokens(prompt) + tokens(input) = tokens(prompt and input).
    """

    tokenizer: PreTrainedTokenizerBase
    pattern: Pattern
    demonstrations: tuple[str, ...] = ()
    separator: str = ""
    trigger: tuple[int, ...] = ()
    """What stands in the pattern's slots (token ids)."""
    _special: tuple[int, ...] = field(init=False)
    _tail: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        check_last(self.pattern, "A causal model answers")
        object.__setattr__(self, "_special", first_tokens(self.tokenizer))
        object.__setattr__(self, "_tail", plain_ids(self.tokenizer, self.demonstrations[-1]) if self.demonstrations else ())

    def tokens(self, values: Mapping[str, str]) -> Gapped:
        """The input without the prompt; a space before the gap is left to the word.

        Raises:
            InputError: the tokenizer writes the input's beginning together with the last demonstration.
        """
        slot = holder(self.tokenizer)
        text = self.pattern.render(values, slot)[0].removesuffix(" ")
        lead = self.demonstrations[-1] + self.separator if self.demonstrations else ""
        places = [len(lead) + place for place in self.pattern.slot_places(values, slot)[0]]
        out = self.tokenizer(lead + text, add_special_tokens=False, return_attention_mask=False, verbose=False)
        whole, slots = filled(self.tokenizer, out, places, self.trigger)
        if not self.demonstrations:
            start = len(self._special)
            return Gapped(ids=self._special + whole, gap=start + len(whole), slots=tuple(start + place for place in slots))
        start = len(self._tail)
        if whole[:start] != self._tail:
            raise InputError(
                f"The tokenizer writes the end of a demonstration and the separator {self.separator!r} together. "
                "Use one that begins with a line break or a space."
            )
        return Gapped(ids=whole[start:], gap=len(whole) - start, slots=tuple(place - start for place in slots))

    def prompt(self) -> tuple[int, ...]:
        """The demonstrations, after the tokens that the tokenizer begins every text with."""
        if not self.demonstrations:
            return ()
        return self._special + plain_ids(self.tokenizer, self.separator.join(self.demonstrations))


@dataclass(frozen=True)
class ContinuingPrompter:
    """Inputs as what follows a prompt that something else puts before them, without the tokens that a text begins with."""

    whole: Prompter
    """Makes the input behind the end of that prompt."""
    end: str
    """The end of the prompt."""
    _lead: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_lead", first_tokens(self.tokenizer) + plain_ids(self.tokenizer, self.end))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's."""
        return self.whole.tokenizer

    def tokens(self, values: Mapping[str, str]) -> Gapped:
        """The input behind the prompt.

        Raises:
            InputError: the tokenizer writes the input's beginning together with the prompt's end.
        """
        prompt, text = self.whole.prompt(), self.whole.tokens(values)
        ids, start = prompt + text.ids, len(self._lead)
        if ids[:start] != self._lead:
            raise InputError(
                f"The tokenizer writes the end of the prompt, {self.end[-20:]!r}, and the input behind it together. Begin the "
                "pattern with a line break or a space."
            )
        moved = len(prompt) - start
        return Gapped(ids=ids[start:], gap=text.gap + moved, slots=tuple(place + moved for place in text.slots))

    def prompt(self) -> tuple[int, ...]:
        """Nothing: it is put there by something else."""
        return ()


def check_last(pattern: Pattern, who: str) -> None:
    """See that a pattern ends with its gap.

    Raises:
        UnsupportedError: it does not.
    """
    if pattern.after:
        raise UnsupportedError(
            f"{who} at the end of the text, but something stands after {{mask}} in {pattern.source!r}. "
            "End the pattern with {mask}."
        )


def first_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The special tokens that a tokenizer puts before a text (Llama's <s>, OPT's </s>), without those after it."""
    return special_tokens(tokenizer)[0]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that a tokenizer puts before a text, and those behind it.

    Raises:
        UnsupportedError: it changes the text's own tokens when it adds them.
    """
    plain = plain_ids(tokenizer, "a")
    whole = tuple(tokenizer("a", return_attention_mask=False, verbose=False)["input_ids"])
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    raise UnsupportedError("This tokenizer does not keep a text's tokens together when it adds its special tokens.")
