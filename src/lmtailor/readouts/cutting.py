"""Cutting the columns of a pattern so that the whole text fits.

What is cut is text, and the whole is tokenised anew: a model never sees tokens that the tokenizer would not have made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from lmtailor.core.errors import InputError
from lmtailor.readouts.words import plain_ids


@dataclass(frozen=True, kw_only=True)
class Gapped:
    """A text as token ids, with the gap for the answer."""

    ids: tuple[int, ...]
    gap: int
    """Masked LMs: the position of the one mask. Causal LMs: the end of the ids."""
    slots: tuple[int, ...] = ()
    """Positions of a trigger's tokens."""
    cut: int = 0
    """Tokens that were cut off."""


Tokenise = Callable[[Mapping[str, str]], Gapped]
"""From the columns' texts to token ids."""


def tokenise_within(
    tokenise: Tokenise,
    values: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    *,
    marked: str | None,
    name: str,
) -> Gapped:
    """Tokenise, and cut columns from their ends until the text has at most `limit` tokens.

    Args:
        tokenise: gives the whole text's tokens.
        values: column -> text.
        tokenizer: counts a column's tokens.
        limit: the most tokens.
        marked: the column that is cut; None cuts the longest first, until those left are equally long.
        name: what messages call it, such as "example 'train/2'".

    Raises:
        InputError: it does not fit even with nothing left of what may be cut.
    """
    whole = now = tokenise(values)
    texts = dict(values)
    while len(now.ids) > limit:
        names = [column for column in ([marked] if marked else texts) if texts[column]]
        if not names:
            fixed = f"without any of the column {marked!r}" if marked else "without any of its columns"
            raise InputError(f"The {name} has {len(now.ids)} tokens even {fixed}; {limit} fit. Shorten the pattern or show less.")
        ends = {column: _ends(tokenizer, texts[column]) for column in names}
        keep = _shares([len(ends[column]) for column in names], len(now.ids) - limit)
        for column, count in zip(names, keep, strict=True):
            texts[column] = _shortened(texts[column], ends[column], count)
        now = tokenise(texts)
    return replace(now, cut=len(whole.ids) - len(now.ids))


def _ends(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """For each token of a text the character after its last."""
    if not tokenizer.is_fast:  # it does not say where its tokens stand: as if all were equally long
        count = len(plain_ids(tokenizer, text))
        return [(token + 1) * len(text) // count for token in range(count)]
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [end for _, end in out["offset_mapping"]]


def _shares(lengths: Sequence[int], excess: int) -> list[int]:
    """How many tokens of each column stay if `excess` must go and the longest lose first; at least one token goes."""
    cap = max(lengths)
    while cap and sum(max(0, length - cap) for length in lengths) < max(excess, 1):
        cap -= 1
    return [min(length, cap) for length in lengths]


def _shortened(text: str, ends: Sequence[int], count: int) -> str:
    """The text of its first `count` tokens. Where a character is several tokens, it goes with the first of them that goes."""
    if count >= len(ends) and ends:
        return text
    if not count or not ends:
        return ""
    while count and ends[count - 1] >= ends[count]:
        count -= 1
    return text[: ends[count - 1]] if count else ""
