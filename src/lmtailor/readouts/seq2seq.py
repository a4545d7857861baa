"""Where an encoder-decoder writes a label word, and what its decoder is fed with before it.

    span      the text with a sentinel in the gap → decoder: start, sentinel, word
    answer    the text up to the gap              → decoder: start, word

A span is what T5 was pretrained to fill (Raffel et al. 2020, arXiv:1910.10683, section 3.1.4); T5 after instruction tuning,
BART, mBART and Marian answer.

The decoder's start is what transformers feeds it with in training and in `generate`: `decoder_start_token_id` (mBART: the
last token of a target, its language or its end), then `forced_bos_token_id`, or if that is not set the tokens that the
tokenizer begins every target with (BART's <s>, mBART-50's language).
"""

from typing import Literal

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.batch import InputForm
from lmtailor.readouts.words import plain_ids

Fill = Literal["auto", "span", "answer"]
"""auto: span where the model was trained with sentinels (T5, umT5), answer elsewhere."""

SENTINEL = "<extra_id_0>"
"""The first sentinel of T5's tokenizers."""

_SPAN_FAMILIES = ("t5", "umt5")


def resolve_fill(base: Base, fill: Fill) -> Literal["span", "answer"] | None:
    """Where the word is written; None in models without an encoder and a decoder.

    Raises:
        UnsupportedError: the setting has no meaning for this model.
    """
    if base.kind != "encoder-decoder":
        if fill != "auto":
            raise UnsupportedError(
                f"fill={fill} says where an encoder-decoder writes the word, and {base.family.name} is none ({base.kind}). "
                "Leave it out."
            )
        return None
    has_sentinels = base.family.name in _SPAN_FAMILIES and SENTINEL in base.tokenizer.get_vocab()
    if fill == "span" and not has_sentinels:
        raise UnsupportedError(
            f"fill=span needs a model that was trained to fill sentinels such as {SENTINEL}; {base.family.name} was not, or its "
            "tokenizer has none. Use fill=answer."
        )
    if fill == "auto":
        return "span" if has_sentinels else "answer"
    return fill


def decoder_start(base: Base, form: InputForm, how: Literal["span", "answer"]) -> tuple[int, ...]:
    """The tokens that the decoder is fed with before a word.

    Args:
        base: an encoder-decoder.
        form: how it takes batches; its `decoder_start` is None where a target's last token comes first.
        how: where the word is written.

    Raises:
        InputError: the tokenizer ends targets with nothing that a decoder could start from.
    """
    before, after = _around_targets(base)
    if form.decoder_start is not None:
        start = form.decoder_start
    elif after:
        start = after[-1]
    else:
        raise InputError(
            f"The tokenizer puts nothing behind a target, but the decoder of {base.family.name} starts with a target's last "
            "token, its language. Use the model's own tokenizer."
        )
    if how == "span":
        return (start, int(base.tokenizer.get_vocab()[SENTINEL]))
    forced = base.model.generation_config.forced_bos_token_id if base.model.can_generate() else None
    return (start, *(before if forced is None else (int(forced),)))


def _around_targets(base: Base) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer puts before and behind a text that the decoder is to write.

    Raises:
        UnsupportedError: it changes the text's own tokens when it adds them.
    """
    tokenizer = base.tokenizer
    own = plain_ids(tokenizer, "a", target=True)
    whole = tuple(tokenizer(text_target="a", return_attention_mask=False, verbose=False)["input_ids"])
    for begin in range(len(whole) - len(own) + 1):
        if whole[begin : begin + len(own)] == own:
            return whole[:begin], whole[begin + len(own) :]
    raise UnsupportedError("This tokenizer does not keep a text's tokens together when it adds its special tokens.")
