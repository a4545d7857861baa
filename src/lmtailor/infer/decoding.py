"""How text is written: the settings, and what they are to transformers' `generate`.

A checkpoint often comes with a generation configuration of its own (samplers, penalties, lengths), which transformers puts in
wherever a caller says nothing. Here results depend on what the caller says alone. Taken from the checkpoint is only what its
model needs to write at all: end tokens, the decoder's first token, a first token that is forced (languages), and words that
must not be written (Marian's padding).

Shapes: B sequences (rows · beams), T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.readouts.readout import input_form


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How text is written. Greedy, unless beams or a temperature are asked for."""

    max_new_tokens: int = 64
    """The most tokens that are written, the end token included."""
    beams: int = 1
    """Texts that are followed at a time; 1 is greedy."""
    length_penalty: float = 1.0
    """With beams: a text's log p is divided by (its tokens)^length_penalty; above 1 favours long texts, below 1 short ones."""
    temperature: float = 0.0
    """0 takes the likeliest token; else tokens are drawn from softmax(logits / temperature)."""
    top_k: int | None = None
    """When drawing: only among so many of the likeliest tokens."""
    top_p: float | None = None
    """When drawing: only among the likeliest tokens that together have this probability, after top_k."""
    seed: int = 0
    """Of the draws. What is drawn for a prompt depends on the seed and the prompt's number alone, not on its batch."""
    stop: tuple[str, ...] = ()
    """Writing ends where one of these appears; it is cut off."""

    def __post_init__(self) -> None:
        """Check ranges, and that every setting has a meaning beside the others.

        Raises:
            InputError: one is out of range, or would be ignored.
        """
        if self.max_new_tokens < 1 or self.beams < 1:
            raise InputError(
                f"max_new_tokens is {self.max_new_tokens} and beams is {self.beams}; each is 1 at least. Ask for that or more."
            )
        if self.length_penalty != 1.0 and self.beams == 1:
            raise InputError("length_penalty weighs beams against each other, but there is one. Ask for beams, or leave it out.")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}; it is 0 (the likeliest token) or more.")
        if self.temperature and self.beams > 1:
            raise InputError("Beams follow the likeliest texts and a temperature draws one. Ask for one of the two.")
        if not self.temperature and (self.top_k is not None or self.top_p is not None):
            raise InputError("top_k and top_p say among which tokens is drawn. Give a temperature above 0, or leave them out.")
        if (self.top_k is not None and self.top_k < 1) or (self.top_p is not None and not 0 < self.top_p <= 1):
            raise InputError(f"top_k is {self.top_k} and top_p is {self.top_p}; top_k is 1 or more, and top_p in (0, 1].")
        if not all(self.stop):
            raise InputError("A stop string is empty, and would end every text at once. Leave it out.")


class Settings(TypedDict, total=False):
    """The settings of `Decoding` as arguments; `stop` may be a single string."""

    max_new_tokens: int
    beams: int
    length_penalty: float
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    stop: str | Sequence[str]


def end_tokens(base: Base) -> tuple[int, ...]:
    """The tokens that end a text: the checkpoint's, and its tokenizer's.

    Raises:
        InputError: there are none.
    """
    own = base.model.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own]
    ids = dict.fromkeys(int(token) for token in (*listed, base.tokenizer.eos_token_id) if token is not None)
    if not ids:
        raise InputError(
            f"{base.source or base.family.name} names no end-of-text token. Set tokenizer.eos_token first, so that texts can end."
        )
    return tuple(ids)


def config_of(base: Base, decoding: Decoding, ends: Sequence[int], decoder: tuple[int, ...] | None = None) -> GenerationConfig:
    """The settings as transformers takes them.

    Args:
        base: the model.
        decoding: the settings.
        ends: the tokens that end a text.
        decoder: what a decoder is fed with before it writes; None is what the checkpoint says.

    Raises:
        InputError: no end token, or an encoder-decoder without a first token for its decoder.
    """
    own, form = base.model.generation_config, input_form(base)
    needed: dict[str, Any] = {"bad_words_ids": own.bad_words_ids}
    if decoder is not None:
        needed |= {"decoder_start_token_id": decoder[0]}
    elif base.kind == "encoder-decoder":
        start = form.decoder_start if own.decoder_start_token_id is None else own.decoder_start_token_id
        if start is None:
            raise InputError(
                f"{base.source or base.family.name} does not say with which token its decoder begins, here the language of what "
                "is written. Set model.generation_config.decoder_start_token_id."
            )
        needed |= {"decoder_start_token_id": start, "forced_bos_token_id": own.forced_bos_token_id}
    beams = {"length_penalty": decoding.length_penalty, "early_stopping": False} if decoding.beams > 1 else {}
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        num_beams=decoding.beams,
        eos_token_id=list(ends),
        pad_token_id=form.pad_id,
        **beams,
        **needed,
    )


@contextmanager
def without_defaults(base: Base) -> Iterator[None]:
    """For a while, the model has no generation configuration of its own that could fill in what the caller leaves open."""
    model = base.model
    own = model.generation_config
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = own


def draws(decoding: Decoding, numbers: Sequence[int]) -> LogitsProcessorList:
    """What makes `generate` draw tokens of these prompts, where a temperature asks for it."""
    if not decoding.temperature:
        return LogitsProcessorList()
    processors: list[LogitsProcessor] = [TemperatureLogitsWarper(decoding.temperature)]
    if decoding.top_k is not None:
        processors.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p is not None and decoding.top_p < 1:
        processors.append(TopPLogitsWarper(decoding.top_p))
    return LogitsProcessorList([*processors, Drawn(decoding.seed, numbers)])


class Drawn(LogitsProcessor):
    """Scores whose largest is a draw from their softmax: argmax (s + g), g = -log(-log u), u uniform.

    Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030, section 2. Each prompt has a generator of its own.
    """

    def __init__(self, seed: int, numbers: Sequence[int]) -> None:
        """Begin the draws of the prompts with these numbers, one a row."""
        self._generators = [generator(seed, "generate", number) for number in numbers]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with the noise added."""
        noise = [-torch.empty(scores.shape[1]).exponential_(generator=own).log() for own in self._generators]
        return scores + torch.stack(noise).to(scores.device)
