"""One beam search for many examples at once: what is written is the same for all of them.

    score(t) = Σ over examples x of Σ_j log p(t_j | x, t_1 … t_{j-1})                  Gao et al. 2021, section 5.2

Every example's text is run once; its keys and values, and in encoder-decoders the encoder's output, are kept and shared by all
that is written behind it. The beam is then run behind one example after the other, as one batch, so that nothing is ever padded,
and what is kept does not grow with the beam.

Shapes: B hypotheses, T tokens written, V vocabulary, H features.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from lmtailor.base.base import Base

_BATCH = 32
"""Texts in a pass of the encoder."""
_ROWS = 128
"""Hypotheses in a forward."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A finished hypothesis."""

    tokens: tuple[int, ...]
    """Without what ends it."""
    score: float
    """Σ over examples of its log-probability, the end's included."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Begun:
    """One example's text, run."""

    last_1H: Tensor
    """The state that predicts what is written first."""
    cache: Any
    """Keys and values of one row."""
    inputs: dict[str, Tensor]
    """What the trunk takes besides, one row each."""


class Writer:
    """Scores what is written behind every example."""

    def __init__(
        self, model: Base, begun: Sequence[Begun], ends: Sequence[int], banned_V: Tensor, separators: Sequence[int] = ()
    ) -> None:
        """Take examples as they are begun.

        Args:
            model: the one that writes.
            begun: the examples.
            ends: of each example the token that ends what is written there.
            banned_V: tokens that are never written.
            separators: tokens of which each is written once, in this order, before the end.
        """
        self._model, self._begun, self._ends = model, begun, ends
        self._banned_V, self._separators = banned_V, tuple(separators)

    def next(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Σ over examples of the log-probability of each next token (B, V), and of the end (B,); -inf where it cannot stand."""
        log_p_BV = torch.zeros(len(tokens_BT), self._model.vocab_size, dtype=torch.float64)
        end_B = torch.zeros(len(tokens_BT), dtype=torch.float64)
        for begun, end in zip(self._begun, self._ends, strict=True):
            own_BV = torch.cat([self._log_p(begun, part) for part in tokens_BT.split(_ROWS)])  # type: ignore[no-untyped-call]
            log_p_BV += own_BV
            end_B += own_BV[:, end]
        done_B = torch.isin(tokens_BT, torch.tensor(self._separators, dtype=torch.long)).sum(1)
        open_BV = (~self._banned_V).expand_as(log_p_BV).clone()
        for number, separator in enumerate(self._separators):
            open_BV[:, separator] = done_B == number
        forbidden = float("-inf")
        return log_p_BV.masked_fill(~open_BV, forbidden), end_B.masked_fill(done_B < len(self._separators), forbidden)

    def _log_p(self, begun: Begun, tokens_BT: Tensor) -> Tensor:
        """(B, V) of one example."""
        model, count = self._model, len(tokens_BT)
        with torch.no_grad():
            if not tokens_BT.shape[1]:
                last_BH = begun.last_1H
            else:
                cache = copy.deepcopy(begun.cache)
                cache.batch_repeat_interleave(count)
                last_BH = _run(model, tokens_BT.to(model.device), cache, _expanded(begun.inputs, count))[:, -1]
            return model.lm_logits(last_BH).float().log_softmax(1).cpu().double()


def shared_beam(writer: Writer, *, width: int, longest: int) -> tuple[Written, ...]:
    """The likeliest hypotheses that a beam finds, the best first.

    It ends when nothing that is still being written can become one of them, since scores only fall.

    Args:
        writer: scores them.
        width: hypotheses that are kept at each length, and that are returned at most.
        longest: tokens of a hypothesis without its end.
    """
    tokens_BT, scores_B = torch.empty(1, 0, dtype=torch.long), torch.zeros(1, dtype=torch.float64)
    found: list[Written] = []
    for length in range(longest + 1):
        log_p_BV, end_B = writer.next(tokens_BT)
        ended = zip(tokens_BT.tolist(), (scores_B + end_B).tolist(), strict=True)
        found += [Written(tokens=tuple(tokens), score=score) for tokens, score in ended if score > float("-inf")]
        found = sorted(found, key=lambda one: (-one.score, one.tokens))[:width]
        total_BV = scores_B[:, None] + log_p_BV
        scores_B, where_B = total_BV.flatten().topk(min(width, total_BV.numel()))
        alive = scores_B > (found[-1].score if len(found) == width else float("-inf"))
        if length == longest or not alive.any():
            break
        scores_B, where_B = scores_B[alive], where_B[alive]
        parents_B, next_B = where_B // log_p_BV.shape[1], where_B % log_p_BV.shape[1]
        tokens_BT = torch.cat([tokens_BT[parents_B], next_B[:, None]], dim=1)
    return tuple(found)


def begin_spans(filler: Base, sources: Sequence[tuple[int, ...]], start: tuple[int, ...]) -> list[Begun]:
    """Texts with sentinels, encoded in one pass, and the decoder's first tokens behind each."""
    out: list[Begun] = []
    for begin in range(0, len(sources), _BATCH):
        part = sources[begin : begin + _BATCH]
        width = max(map(len, part))
        ids = torch.tensor([[*source, *([0] * (width - len(source)))] for source in part], device=filler.device)
        mask = torch.tensor([[1] * len(source) + [0] * (width - len(source)) for source in part], device=filler.device)
        with torch.no_grad():
            encoded = filler.trunk.get_encoder()(input_ids=ids, attention_mask=mask)[0]
        for row, source in enumerate(part):
            inputs = {"encoded": encoded[row : row + 1, : len(source)]}
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            out.append(_begun(filler, start, cache, inputs))
    return out


def begin_texts(base: Base, texts: Sequence[tuple[int, ...]]) -> list[Begun]:
    """Texts as a causal model begins them."""
    return [_begun(base, text, DynamicCache(config=base.trunk.config), {}) for text in texts]


def _begun(model: Base, tokens: tuple[int, ...], cache: Any, inputs: dict[str, Tensor]) -> Begun:
    with torch.no_grad():
        states = _run(model, torch.tensor([tokens], device=model.device), cache, inputs)
    return Begun(last_1H=states[:, -1], cache=cache, inputs=inputs)


def _run(model: Base, tokens_BT: Tensor, cache: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The states (B, T, H) of tokens behind what is in the cache."""
    named: dict[str, Any] = {"input_ids": tokens_BT}
    if model.kind == "encoder-decoder":
        named = {"decoder_input_ids": tokens_BT, "encoder_outputs": (inputs["encoded"],)}
    states: Tensor = model.trunk(**named, past_key_values=cache, use_cache=True)[0]
    return states


def _expanded(inputs: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: value.expand(count, *value.shape[1:]) for name, value in inputs.items()}
