"""Which tokens may stand in a trigger, and which promise the most.

Shapes: V tokens of the vocabulary, H features, K candidates.
"""

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.readouts.verbalizer_reading import VerbalizerReading
from lmtailor.readouts.words import plain_ids


def embedding_table(base: Base) -> Tensor:
    """The input embeddings of words (V, H), as stored."""
    weight: Tensor = base.module(base.stacks[0].embedding).weight  # type: ignore[assignment]
    return weight.detach()


def allowed_tokens(base: Base, reading: VerbalizerReading, *, filtered: bool) -> Tensor:
    """Which tokens may be candidates (V,).

    Args:
        base: the model.
        reading: its label words are left out with `filtered`.
        filtered: leave out special tokens, label words and what begins with a capital letter, so that a trigger does not name
            the answer, or people and places (the paper's section 3.1; its code's --filter). Else every token with a name is.
    """
    tokenizer, size = base.tokenizer, len(embedding_table(base))
    allowed_V = torch.zeros(size, dtype=torch.bool)
    ids = [i for i in tokenizer.get_vocab().values() if i < size]
    allowed_V[ids] = True
    if filtered:
        banned = set(tokenizer.all_special_ids) | {piece for word in reading.words for piece in word.pieces}
        texts = tokenizer.batch_decode([[i] for i in ids])
        banned |= {i for i, text in zip(ids, texts, strict=True) if text.strip()[:1].isupper()}
        allowed_V[sorted(i for i in banned if i < size)] = False
    if not allowed_V.any():
        raise InputError("No token of the vocabulary may stand in a trigger. Try filter=false.")
    return allowed_V


def candidates(table_VH: Tensor, gradient_H: Tensor, allowed_V: Tensor, current: int, count: int) -> Tensor:
    """The tokens (K,) that lower the loss most to first order, the most promising first: the top-k of -E · g.

    Shin et al. 2020, section 2.2, equation 3 (with the gradient of log p there, of -log p here).

    Args:
        table_VH: E.
        gradient_H: g, of the loss at the slot's embedding.
        allowed_V: tokens that may be chosen.
        current: the token in the slot, which is no candidate.
        count: the most candidates.
    """
    gain_V = -(table_VH.float() @ gradient_H.float())
    gain_V = gain_V.masked_fill(~allowed_V.to(gain_V.device), -torch.inf)
    gain_V[current] = -torch.inf
    best = torch.topk(gain_V, min(count, len(gain_V)))
    return best.indices[best.values > -torch.inf]


def start_ids(base: Base, slots: int, word: str | None) -> tuple[int, ...]:
    """What stands in the slots at first.

    Args:
        base: the model.
        slots: how many.
        word: a word of one token; None: the mask token, or "the" where there is none.

    Raises:
        InputError: the word is not one token.
    """
    tokenizer = base.tokenizer
    if word is None and tokenizer.mask_token_id is not None:
        return (tokenizer.mask_token_id,) * slots
    word = "the" if word is None else word
    for text in (f" {word}", word):
        pieces = plain_ids(tokenizer, text)
        if len(pieces) == 1 and pieces[0] != tokenizer.unk_token_id:
            return pieces * slots
    raise InputError(
        f"A trigger starts from a word of one token in every slot; the tokenizer makes {tokenizer.tokenize(f' {word}')} of "
        f"{word!r}. Choose another one with initial=…"
    )
