"""What was written: where a text ends, and texts that are told while they are written.

Shapes: B sequences (rows · beams), T tokens.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

Ended = Literal["end", "stop", "length"]
"""Why writing ended: an end token, a stop string, or as many tokens as were asked for."""

Stream = Callable[[int, str], None]
"""Called with the number of a prompt and the next piece of its text; the pieces together are the text."""

_SPARE = 16
"""Tokens without text of their own that are looked past when a stop string is looked for."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """The text for one prompt."""

    text: str
    """Without the prompt, special tokens, and the stop string."""
    tokens: tuple[int, ...]
    """The token ids that were written, the end token or those of the stop string included."""
    ended: Ended
    """Why it ended there."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Where texts end."""

    tokenizer: PreTrainedTokenizerBase
    ends: tuple[int, ...]
    """End tokens."""
    stop: tuple[str, ...]
    """Stop strings."""

    def text(self, ids: Sequence[int]) -> str:
        """Token ids as text, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def read(self, ids: Sequence[int]) -> Generated:
        """What was written, from tokens behind which padding may follow."""
        end = next((place for place, token in enumerate(ids) if token in self.ends), None)
        own = ids if end is None else ids[:end]
        text = self.text(own)
        found = self._stop(text)
        if found is not None:
            # The fewest tokens that have the stop string; with more tokens it stays.
            count = bisect_left(range(len(own)), True, key=lambda count: self._stop(self.text(own[:count])) is not None)
            return Generated(text=text[:found], tokens=tuple(own[:count]), ended="stop")
        return Generated(
            text=text, tokens=tuple(ids if end is None else ids[: end + 1]), ended="length" if end is None else "end"
        )

    def stopped(self, ids: Sequence[int]) -> bool:
        """Whether a text has a stop string. Its last tokens alone are looked at first, since this is asked at every token."""
        if not self.stop:
            return False
        last = ids[-max(len(one.encode()) for one in self.stop) - _SPARE :]
        return self._stop(self.text(last)) is not None and self._stop(self.text(ids)) is not None

    def sure(self, text: str) -> str:
        """As much of a text as further tokens cannot change: no half of a character, and no beginning of a stop string."""
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        begun = [length for one in self.stop for length in range(1, min(len(one), len(text) + 1)) if text.endswith(one[:length])]
        return text[: len(text) - max(begun, default=0)]

    def _stop(self, text: str) -> int | None:
        """Where the first stop string begins."""
        return min((place for one in self.stop if (place := text.find(one)) >= 0), default=None)


class Watch(StoppingCriteria):
    """Looks at every token that is written: ends texts at stop strings, and tells what is new of each."""

    def __init__(self, ending: Ending, start: int, numbers: Sequence[int], stream: Stream | None, *, live: bool) -> None:
        """Watch a batch.

        Args:
            ending: where texts end.
            start: the column of the first token that is written.
            numbers: of the prompts.
            stream: is told the texts.
            live: whether they are told as they come. Beams' texts are known at the end.
        """
        self._ending, self._start, self._stream, self._live = ending, start, stream, live
        self._told = dict.fromkeys(numbers, 0)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """For each sequence whether it ends here (B,)."""
        rows = input_ids[:, self._start :].tolist()
        if self._stream is not None and self._live:
            for number, ids in zip(self._told, rows, strict=True):
                self._tell(number, self._ending.sure(self._ending.read(ids).text))
        stopped = [self._ending.stopped(ids) for ids in rows]
        return torch.tensor(stopped, dtype=torch.bool, device=input_ids.device)

    def finish(self, number: int, one: Generated) -> None:
        """Tell the rest of a text."""
        self._tell(number, one.text)

    def _tell(self, number: int, text: str) -> None:
        if self._stream is not None and len(text) > self._told[number]:
            self._stream(number, text[self._told[number] :])
            self._told[number] = len(text)
