"""Prompts and their choices as token ids: what is run to score a choice, and which of its tokens are read where.

causal             prompt and choice are one text; each token of the choice is predicted from what stands before it
masked             the prompt has the tokenizer's mask token once; it becomes as many masks as the choice has tokens
encoder-decoder    the encoder reads the prompt, the decoder writes the choice; behind <extra_id_0>, if the prompt has it
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.readouts.batch import Encoded, InputForm
from lmtailor.readouts.pattern import parse_pattern
from lmtailor.readouts.prompts import MaskedPrompter, first_tokens
from lmtailor.readouts.readout import input_form
from lmtailor.readouts.runs import Run, plan_runs
from lmtailor.readouts.words import LabelWord, plain_ids

SENTINEL = "<extra_id_0>"
"""T5's token for the gap."""

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
        pieces = tuple(_behind(tokenizer, question, choice, head, next(wholes)) for choice in question.choices)
        text = special + head
        if not text:
            raise InputError(f"{_upper(question.name)} is empty, and a causal model answers only to something. Give it a text.")
        runs = _runs(question, pieces, None)
        out.append(_asked(base, question, pieces, runs, [text + run.filling for run in runs], len(text) - 1))
    return out


def _masked(base: Base, questions: Sequence[Question]) -> list[Asked]:
    tokenizer, prompter = base.tokenizer, MaskedPrompter(base.tokenizer, _AROUND)
    mask, form, out = str(tokenizer.mask_token), input_form(base), []
    for question in questions:
        parts = question.prompt.split(mask)
        if len(parts) != 2:
            found = f"{len(parts) - 1} of them" if parts[1:] else "none"
            raise InputError(f"A prompt for a masked model has {mask} once, where the choice goes; {question.name} has {found}.")
        text = prompter.tokens({"before": parts[0], "after": parts[1]})
        head = plain_ids(tokenizer, parts[0].removesuffix(" "))
        wholes = _tokenised(tokenizer, [parts[0] + choice for choice in question.choices])
        pairs = zip(question.choices, wholes, strict=True)
        pieces = tuple(_behind(tokenizer, question, choice, head, whole) for choice, whole in pairs)
        runs = _runs(question, pieces, tokenizer.mask_token_id)
        before, after = text.ids[: text.gap], text.ids[text.gap + 1 :]
        sequences = [before + run.filling + after for run in runs]
        out.append(_asked(base, question, pieces, runs, sequences, text.gap, form=form))
    return out


def _written(base: Base, questions: Sequence[Question]) -> list[Asked]:
    tokenizer, form = base.tokenizer, input_form(base)
    special, vocabulary, out = first_tokens(tokenizer), tokenizer.get_vocab(), []
    texts = _tokenised(tokenizer, [question.prompt for question in questions], special=True)
    for question, text in zip(questions, texts, strict=True):
        if not text:
            raise InputError(f"{_upper(question.name)} is empty, so the encoder has nothing to read. Give it a text.")
        gap = vocabulary.get(SENTINEL)
        lead = (text[-1] if form.decoder_start is None else form.decoder_start, *special)
        lead += () if gap is None or gap not in text else (gap,)
        wholes = _tokenised(tokenizer, list(question.choices))
        pieces = tuple(
            _behind(tokenizer, question, choice, (), whole) for choice, whole in zip(question.choices, wholes, strict=True)
        )
        runs = _runs(question, pieces, None)
        fed = [lead + run.filling for run in runs]
        out.append(_asked(base, question, pieces, runs, [text] * len(runs), len(lead) - 1, decoder=fed))
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


def _runs(question: Question, pieces: Sequence[tuple[int, ...]], mask_id: int | None) -> tuple[Run, ...]:
    words = [
        LabelWord(label=i, word=word, pieces=own) for i, (word, own) in enumerate(zip(question.choices, pieces, strict=True))
    ]
    return plan_runs(words, mask_id)


def _asked(
    base: Base,
    question: Question,
    pieces: tuple[tuple[int, ...], ...],
    runs: tuple[Run, ...],
    sequences: Sequence[tuple[int, ...]],
    start: int,
    *,
    decoder: Sequence[tuple[int, ...]] | None = None,
    form: InputForm | None = None,
) -> Asked:
    """A question whose choices are read from one position on."""
    longest = max(map(len, (*sequences, *(decoder or ()))))
    if longest > base.max_length:
        raise InputError(
            f"{_upper(question.name)} has {longest} tokens with its longest choice, but the model takes {base.max_length}. "
            "Shorten it."
        )
    item = Encoded(
        sequences=tuple(sequences),
        segments=tuple((0,) * len(sequence) for sequence in sequences) if form is not None and form.segments else None,
        read=tuple(tuple(start + i for word in run.words for i in range(len(pieces[word]))) for run in runs),
        targets=tuple(tuple(piece for word in run.words for piece in pieces[word]) for run in runs),
        decoder=None if decoder is None else tuple(decoder),
        id=question.name,
    )
    return Asked(item=item, pieces=pieces, runs=runs)


def _upper(name: str) -> str:
    return name[0].upper() + name[1:]
