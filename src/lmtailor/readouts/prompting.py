"""Prompters for one pattern and any demonstrations, and whether these fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from transformers import PreTrainedTokenizerBase

from lmtailor.core.errors import InputError
from lmtailor.readouts.cutting import Gapped
from lmtailor.readouts.demonstrations import Demonstrations, Shown
from lmtailor.readouts.pattern import Pattern
from lmtailor.readouts.prompts import AnswerPrompter, CausalPrompter, ContinuingPrompter, MaskedPrompter, Prompter, solved
from lmtailor.readouts.seq2seq import SENTINEL

Style = Literal["masked", "causal", "span", "answer"]


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """Makes prompters of one pattern."""

    tokenizer: PreTrainedTokenizerBase
    pattern: Pattern
    style: Style
    first_word: Mapping[str, str]
    """Label -> the word that demonstrations show."""
    separator: str
    """Stands after each demonstration."""
    trigger: tuple[int, ...] = ()
    """What stands in the pattern's slots (token ids). Demonstrations are shown without it, so that they do not depend on it."""
    after: str = ""
    """The end of a prompt that something else puts before the input, which has no demonstrations then."""

    def of(self, shown: Sequence[Shown]) -> Prompter:
        """The prompter with these demonstrations, in this order."""
        if self.after:
            return ContinuingPrompter(self._behind((self.after,), ""), self.after)
        return self._behind(solved(self.pattern, shown, self.first_word), self.separator)

    def _behind(self, texts: Sequence[str], separator: str) -> Prompter:
        """The prompter whose inputs stand behind these texts, each with the separator after it."""
        if self.style == "causal":
            return CausalPrompter(self.tokenizer, self.pattern, tuple(texts), separator, self.trigger)
        lead = "".join(text + separator for text in texts)
        if self.style == "answer":
            return AnswerPrompter(self.tokenizer, self.pattern, lead, self.trigger)
        return MaskedPrompter(self.tokenizer, self.pattern, lead, SENTINEL if self.style == "span" else None, self.trigger)

    def tokens(self, shown: Sequence[Shown], values: Mapping[str, str]) -> Gapped:
        """The whole input behind these demonstrations, with nothing apart as a prompt."""
        prompter = self.of(shown)
        lead, text = prompter.prompt(), prompter.tokens(values)
        return replace(
            text, ids=lead + text.ids, gap=len(lead) + text.gap, slots=tuple(len(lead) + place for place in text.slots)
        )

    def fits(self, shown: Sequence[Shown], limit: int) -> bool:
        """Whether an input with one token in each column and these demonstrations has at most `limit` tokens."""
        fields = self.pattern.fields
        return len(self.tokens(shown, dict.fromkeys(fields, "")).ids) + len(fields) <= limit

    def check_fits(self, shown: Sequence[Shown], limit: int, settings: Demonstrations | None) -> None:
        """See that demonstrations leave room for an input.

        Raises:
            InputError: they do not; the message says how many would.
        """
        if self.fits(shown, limit):
            return
        count = next((count for count in range(len(shown) - 1, -1, -1) if self.fits(shown[:count], limit)), None)
        if count is None:
            raise InputError(
                f"The pattern {self.pattern.source!r} alone is longer than the {limit} tokens that an input may have. Shorten it."
            )
        most = count * (len(shown) if settings is None else settings.k) // len(shown)
        raise InputError(
            f"{len(shown)} demonstrations are longer than the {limit} tokens that an input may have; the first {count} fit. "
            + (f"Use k of {most} or less." if most else "Show none.")
        )
