"""Slots of a pattern: tokens that stand in a text whatever the tokenizer makes of what is around them.

While the text is tokenised, a special token holds each slot's place: tokenizers cut it out of the text before all else.
"""

from collections.abc import Callable, Sequence

from transformers import BatchEncoding, PreTrainedTokenizerBase

from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.pattern import Pattern


def holder(tokenizer: PreTrainedTokenizerBase) -> str:
    """The special token that holds the place of a slot."""
    return str(tokenizer.pad_token if tokenizer.mask_token is None else tokenizer.mask_token)


def trigger_ids(tokenizer: PreTrainedTokenizerBase, pattern: Pattern, trigger: Sequence[str] | None) -> tuple[int, ...]:
    """The ids of a trigger's tokens.

    Args:
        tokenizer: the model's.
        pattern: has a slot for each token.
        trigger: tokens as the tokenizer writes them, such as "Ġgreat" or "##ing"; None: mask tokens.

    Raises:
        InputError: more or fewer tokens than slots, an unknown token, or None where there is no mask token.
    """
    if trigger is None:
        if pattern.slots and tokenizer.mask_token_id is None:
            raise InputError(
                f"The pattern {pattern.source!r} has slots {{trigger}}, and the tokenizer has no mask token to fill them with. "
                "Give trigger=…, a token for each slot, or search for one with AutoPrompt."
            )
        return (tokenizer.mask_token_id,) * pattern.slots
    check_trigger(pattern, trigger)
    return tuple(_id(tokenizer, token) for token in trigger)


def check_trigger(pattern: Pattern, trigger: Sequence[str]) -> None:
    """See that a trigger has a token for each slot.

    Raises:
        InputError: it has not.
    """
    if len(trigger) != pattern.slots:
        raise InputError(
            f"The pattern {pattern.source!r} has {pattern.slots} slots {{trigger}}, but the trigger has {len(trigger)} tokens: "
            f"{list(trigger)}. Write {{trigger}} once for each."
        )


def filled(
    tokenizer: PreTrainedTokenizerBase, out: BatchEncoding, places: Sequence[int], trigger: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids with the trigger in its slots, and the slots' positions.

    Args:
        tokenizer: the model's.
        out: the text with a `holder` in each slot, as tokens.
        places: the characters at which these begin.
        trigger: token ids for the slots.

    Raises:
        UnsupportedError: the tokenizer does not keep its special tokens apart.
    """
    ids = list(out["input_ids"])
    wanted = tokenizer.convert_tokens_to_ids(holder(tokenizer))
    token_at: Callable[[int], int | None] = out.char_to_token  # it says that it gives an integer always
    positions: list[int] = []
    for place, token in zip(places, trigger, strict=True):
        position = token_at(place)
        if position is None or ids[position] != wanted:
            raise UnsupportedError(
                f"The tokenizer does not keep {holder(tokenizer)} apart in a text, so it cannot hold a trigger's slot open."
            )
        positions.append(position)
        ids[position] = token
    return tuple(ids), tuple(positions)


def _id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    if isinstance(found, int) and tokenizer.convert_ids_to_tokens(found) == token:
        return found
    pieces = [tokenizer.tokenize(text) for text in (token, f" {token}")]
    raise InputError(
        f"{token!r} is no token of this tokenizer; it makes {pieces[0]} of it, or {pieces[1]} with a space before it. Name a "
        "trigger's tokens as the tokenizer writes them."
    )
