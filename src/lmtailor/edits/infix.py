"""What a causal decoder must know of a text and its answer where something stands between the two.

Steps without a cache cannot tell an answer's first tokens from the text. So where the answer begins comes with the batch
(`Attached.states`), or from `generate`, whose answer begins behind its prompt; a forward that is told nothing takes the
answer to begin behind the text.

Shapes: B sequences (rows · beams), T tokens of the pass, M virtual tokens between text and answer, L = T + M.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.engine import Engine
from lmtailor.edits.insertion import Insertion


@dataclass(frozen=True, kw_only=True)
class Between:
    """Text and answer in one pass."""

    gaps_B: Tensor
    """The column of the answer's first token, counted over the tokens behind a cache too."""
    counts_B: Tensor
    """Virtual tokens among the embeddings between the two."""
    late_B: Tensor
    """By how much keys and values between the two move positions."""
    past: int
    """Own tokens behind the cache."""
    tokens: int
    """T."""

    def __post_init__(self) -> None:
        """Check that the answer begins within the tokens of a first pass, and within the cache of later ones.

        Raises:
            InputError: it begins before the text, or behind all tokens.
            UnsupportedError: the cache ends within the text.
        """
        least, most = int(self.gaps_B.min()), int(self.gaps_B.max())
        if self.past and self.past < most:
            raise UnsupportedError(
                f"The cache holds {self.past} tokens of a text that ends at {most}: what stands between text and answer is put "
                "in one pass. Run the whole text in one pass."
            )
        if least < 1 or (not self.past and most > self.tokens):
            raise InputError(
                f"Answers begin at tokens {least} to {most}, but an input has {self.tokens} and at least one before its answer."
            )

    @property
    def behind_BT(self) -> Tensor:
        """Which tokens of the pass see keys and values between text and answer: from the one that predicts the answer on."""
        return self._columns_T >= self.gaps_B[:, None] - 1

    @property
    def _columns_T(self) -> Tensor:
        return torch.arange(self.past, self.past + self.tokens, device=self.gaps_B.device)

    def positions(self, own_BT: Tensor) -> Tensor:
        """The tokens' positions, from what they would be with nothing between."""
        behind_BT = self._columns_T >= self.gaps_B[:, None]
        return own_BT + self.behind_BT * self.late_B[:, None] + behind_BT * self.counts_B[:, None]

    def inserted(self, positions_BT: Tensor, made: Insertion) -> Tensor:
        """Positions of the longer rows (B, L): virtual tokens follow the text's last token."""
        last_B1 = positions_BT.gather(1, self.gaps_B[:, None] - 1)
        number_M = torch.arange(made.new_BM.shape[1], device=last_B1.device)
        return made.joined(positions_BT[..., None], (last_B1 + 1 + number_M)[..., None])[..., 0]

    def widened(self, mask_BS: Tensor) -> Tensor:
        """A mask over the own tokens, those behind the cache included, with the virtual ones put in."""
        return Insertion.between(self.gaps_B, self.counts_B, mask_BS.shape[1]).marked(mask_BS, 1)


def gaps_of(answer: Tensor | int | None, mask: Tensor | None, batch: int, tokens: int, past: int, device: torch.device) -> Tensor:
    """For each sequence the column where its answer begins (B,).

    Args:
        answer: what is known: one column for all, or one for each, -1 meaning behind the text; None means that for all.
        mask: the attention mask (B, T), or None.
        batch: B.
        tokens: T.
        past: tokens behind the cache.
        device: of the states.

    Raises:
        InputError: a cache hides where the text ends, or `answer` is of another number of sequences.
        UnsupportedError: the mask has another number of axes.
    """
    if mask is not None and mask.ndim != 2:
        raise UnsupportedError("Virtual tokens between text and answer need a two-dimensional attention mask.")
    if isinstance(answer, int):
        return torch.full((batch,), answer, device=device)
    given_B = torch.full((batch,), -1, device=device) if answer is None else answer.to(device)
    if len(given_B) != batch:
        raise InputError(f"The answers of {len(given_B)} sequences are said to begin somewhere, but {batch} run.")
    if not bool((given_B < 0).any()):
        return given_B
    if past:
        raise InputError(
            "Behind a cache it cannot be seen where the text ended and the answer began. Call `generate`, or the model inside "
            "`with attached.answering(…)`, or without a cache."
        )
    real_BT = torch.ones(batch, tokens, dtype=torch.long, device=device) if mask is None else mask.long()
    ends_B = (real_BT * torch.arange(1, tokens + 1, device=device)).amax(1)
    return torch.where(given_B < 0, ends_B, given_B)


@contextmanager
def answering(engine: Engine, answer: Tensor | int | None) -> Iterator[None]:
    """For a while, answers begin there; None leaves it as it is."""
    before = engine.answer
    engine.answer = before if answer is None else answer
    try:
        yield
    finally:
        engine.answer = before


class AnswerBehindPrompt:
    """While it stands, the answers of a model's `generate` begin behind its prompt."""

    def __init__(self, engine: Engine, model: nn.Module) -> None:
        self.model = model
        generate = cast(Callable[..., Any], model.generate)

        def generating(*args: Any, **kwargs: Any) -> Any:
            with answering(engine, _prompt_length(args, kwargs)):
                return generate(*args, **kwargs)

        model.__dict__["generate"] = generating

    def remove(self) -> None:
        """The model's own `generate` is called again."""
        self.model.__dict__.pop("generate")


def _prompt_length(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Columns of a prompt; 1 where there is none, and the model begins with its first token."""
    given = [kwargs.get("inputs_embeds"), *args[:1], kwargs.get("inputs"), kwargs.get("input_ids")]
    return next((int(one.shape[1]) for one in given if isinstance(one, Tensor)), 1)
