"""Prompts and their choices as token ids: what is run to score a choice, and which of its tokens are read where.

causal             prompt and choice are one text; each token of the choice is predicted from what stands before it
masked             the prompt has the tokenizer's mask token once; it becomes as many masks as the choice has tokens
encoder-decoder    the encoder reads the prompt, the decoder writes the choice; T5's fills <extra_id_0>, if the prompt has it
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.batch import Encoded
from lmtailor.readouts.cutting import Gapped
from lmtailor.readouts.gaps import CausalGap, DecoderGap, Gap, MaskedGap
from lmtailor.readouts.pattern import parse_pattern
from lmtailor.readouts.prompts import MaskedPrompter, first_tokens
from lmtailor.readouts.readout import input_form
from lmtailor.readouts.runs import Run, plan_runs
from lmtailor.readouts.seq2seq import decoder_start, resolve_fill
from lmtailor.readouts.words import LabelWord, plain_ids

_AROUND = parse_pattern("{before}{mask}{after}")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt and what may follow it, or fill its gap."""

    name: str
    """For messages, such as "prompt 3"."""
    prompt: str
    choices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question as token ids."""

    item: Encoded
    pieces: tuple[tuple[int, ...], ...]
    """The tokens of each choice."""
    runs: tuple[Run, ...]
    """Which choices are read in which sequence of `item`."""

    def log_p(self, log_p_KP: Tensor) -> list[float]:
        """The choices' log-probabilities, from those of the tokens that each of the K sequences reads."""
        found: dict[int, float] = {}
        for run, log_p_P in zip(self.runs, log_p_KP.double(), strict=True):
            counts = [len(self.pieces[i]) for i in run.words]
            parts = torch.split(log_p_P[: sum(counts)], counts)
            found |= {i: float(part.sum()) for i, part in zip(run.words, parts, strict=True)}
        return [found[i] for i in range(len(self.pieces))]


def asked(base: Base, questions: Sequence[Question]) -> list[Asked]:
    """Questions as token ids.

    Raises:
        InputError: a prompt without a token or without its gap, a choice that the tokenizer does not keep apart from the prompt
            or does not know, more tokens than the model takes.
        UnsupportedError: the model has no LM head, or its tokenizer no mask.
    """
    if not base.has_lm_head:
        raise UnsupportedError(
            f"{base.source or base.family.name} has no LM head, so it gives words no probability. Use a checkpoint with one."
        )
    ask = {"decoder": _causal, "encoder": _masked, "encoder-decoder": _written}[base.kind]
    return ask(base, questions)


def _causal(base: Base, questions: Sequence[Question]) -> list[Asked]:
    tokenizer = base.tokenizer
    special = first_tokens(tokenizer)
    # A space before the choice belongs to the choice, as byte-level and sentence-piece tokenizers write it.
    heads = _tokenised(tokenizer, [question.prompt.rstrip(" ") for question in questions])
    wholes = iter(_tokenised(tokenizer, [question.prompt + choice for question in questions for choice in question.choices]))
    out = []
    for question, head in zip(questions, heads, strict=True):
        pieces = [_behind(tokenizer, question, choice, head, next(wholes)) for choice in question.choices]
        text = Gapped(ids=special + head, gap=len(special + head))
        if not text.gap:
            raise InputError(f"{_upper(question.name)} is empty, and a causal model answers only to something. Give it a text.")
        out.append(_asked(base, question, text, CausalGap(), pieces))
    return out


def _masked(base: Base, questions: Sequence[Question]) -> list[Asked]:
    tokenizer, prompter = base.tokenizer, MaskedPrompter(base.tokenizer, _AROUND)
    mask, gap, out = str(tokenizer.mask_token), MaskedGap(int(tokenizer.mask_token_id)), []
    for question in questions:
        parts = question.prompt.split(mask)
        if len(parts) != 2:
            found = f"{len(parts) - 1} of them" if parts[1:] else "none"
            raise InputError(f"A prompt for a masked model has {mask} once, where the choice goes; {question.name} has {found}.")
        text = prompter.tokens({"before": parts[0], "after": parts[1]})
        head = plain_ids(tokenizer, parts[0].removesuffix(" "))
        wholes = _tokenised(tokenizer, [parts[0] + choice for choice in question.choices])
        pairs = zip(question.choices, wholes, strict=True)
        pieces = [_behind(tokenizer, question, choice, head, whole) for choice, whole in pairs]
        out.append(_asked(base, question, text, gap, pieces))
    return out


def _written(base: Base, questions: Sequence[Question]) -> list[Asked]:
    tokenizer, form, out = base.tokenizer, input_form(base), []
    answers = DecoderGap(decoder_start(base, form, "answer"))
    spans = DecoderGap(decoder_start(base, form, "span")) if resolve_fill(base, "auto") == "span" else None
    texts = _tokenised(tokenizer, [question.prompt for question in questions], special=True)
    for question, ids in zip(questions, texts, strict=True):
        if not question.prompt:
            raise InputError(f"{_upper(question.name)} is empty, so the encoder has nothing to read. Give it a text.")
        wholes = [plain_ids(tokenizer, choice, target=True) for choice in question.choices]
        pairs = zip(question.choices, wholes, strict=True)
        pieces = [_behind(tokenizer, question, choice, (), whole) for choice, whole in pairs]
        gap = answers if spans is None or spans.start[-1] not in ids else spans
        out.append(_asked(base, question, Gapped(ids=ids, gap=len(ids)), gap, pieces))
    return out


def _tokenised(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special: bool = False) -> list[tuple[int, ...]]:
    found = tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]
    return [tuple(ids) for ids in found]


def _behind(
    tokenizer: PreTrainedTokenizerBase, question: Question, choice: str, head: tuple[int, ...], whole: tuple[int, ...]
) -> tuple[int, ...]:
    """The tokens that a choice adds to those of what stands before it."""
    pieces = whole[len(head) :]
    if whole[: len(head)] != head or not pieces:
        shown = tokenizer.convert_ids_to_tokens(list(whole[max(0, len(head) - 2) :]))
        raise InputError(
            f"The tokenizer does not keep the choice {choice!r} apart from the end of {question.name}; together they are "
            f"… {shown}. Begin the choice with a space or a line break."
        )
    if tokenizer.unk_token_id in pieces:
        shown = tokenizer.convert_ids_to_tokens(list(pieces))
        raise InputError(
            f"The tokenizer does not know the choice {choice!r} of {question.name}; it makes {shown} of it. Choose other words."
        )
    return pieces


def _asked(base: Base, question: Question, text: Gapped, gap: Gap, pieces: Sequence[tuple[int, ...]]) -> Asked:
    """A question whose choices fill a gap of its text."""
    words = [
        LabelWord(label=i, word=word, pieces=own) for i, (word, own) in enumerate(zip(question.choices, pieces, strict=True))
    ]
    runs = plan_runs(words, gap.mask_id)
    filled = [gap.fill(text, run.filling) for run in runs]
    decoder = tuple(one.decoder for one in filled if one.decoder is not None)
    longest = max(len(ids) for one in filled for ids in (one.sequence, one.decoder or ()))
    if longest > base.max_length:
        raise InputError(
            f"{_upper(question.name)} has {longest} tokens with its longest choice, but the model takes {base.max_length}. "
            "Shorten it."
        )
    spots = [[range(one.first, one.first + len(pieces[i])) for i in run.words] for one, run in zip(filled, runs, strict=True)]
    item = Encoded(
        sequences=tuple(one.sequence for one in filled),
        decoder=decoder or None,
        read=tuple(tuple(spot for spots_of_word in own for spot in spots_of_word) for own in spots),
        targets=tuple(tuple(piece for i in run.words for piece in pieces[i]) for run in runs),
        id=question.name,
    )
    return Asked(item=item, pieces=tuple(pieces), runs=runs)


def _upper(name: str) -> str:
    return name[0].upper() + name[1:]
