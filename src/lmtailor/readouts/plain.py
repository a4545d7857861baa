"""One text, or a pair, as the tokenizer itself makes a sequence of it."""

from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from lmtailor.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A tokenised text or pair."""

    ids: tuple[int, ...]
    segments: tuple[int, ...] | None
    """Token types; None where the model has none."""
    cut: int
    """Tokens that were cut off."""
    offsets: tuple[tuple[int, int], ...] | None = None
    """For each token the character at which it begins, and the one after its last; None where nobody asked."""


@dataclass(frozen=True)
class PlainInputs:
    """The tokenizer's own sequences, with its special tokens.

    A text that is longer than `limit` (tokens) loses its end; of a pair the longer text loses first.
    """

    tokenizer: PreTrainedTokenizerBase
    columns: tuple[str, ...]
    limit: int
    segments: bool
    offsets: bool = False
    """Whether the tokens' characters are asked for, which fast tokenizers tell."""

    def __post_init__(self) -> None:
        special = self.tokenizer.num_special_tokens_to_add(pair=len(self.columns) > 1)
        if self.limit <= special:
            raise InputError(
                f"Inputs may have {self.limit} tokens, but the tokenizer adds {special} of its own. Raise max_length."
            )

    def encode(self, texts: tuple[str, ...], name: str) -> Tokens:
        """Tokenise one example.

        Args:
            texts: one text or two.
            name: the example's, for messages.

        Raises:
            InputError: there are no tokens.
        """
        whole = self._tokens(texts, None)
        if not whole.ids:
            raise InputError(f"The tokenizer makes no token of the text of example {name!r}: {texts[0]!r}.")
        if len(whole.ids) <= self.limit:
            return whole
        part = self._tokens(texts, self.limit)
        return replace(part, cut=len(whole.ids) - len(part.ids))

    def _tokens(self, texts: tuple[str, ...], limit: int | None) -> Tokens:
        out = self.tokenizer(
            *texts,
            truncation=limit is not None,
            max_length=limit,
            return_token_type_ids=self.segments,
            return_attention_mask=False,
            return_offsets_mapping=self.offsets,
            verbose=False,
        )
        return Tokens(
            ids=tuple(out["input_ids"]),
            segments=tuple(out["token_type_ids"]) if self.segments else None,
            cut=0,
            offsets=tuple(out["offset_mapping"]) if self.offsets else None,
        )
