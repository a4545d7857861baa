"""A question and a context as sequences: one, or overlapping windows of a context that is longer than the model takes.

A window begins `stride` tokens of the context behind the one before it, as in Devlin et al.'s run_squad; the question stands
before every window. Where a token is in several windows, the one counts in which it has the most context: the most of
min(tokens before it, tokens behind it) + 0.01 · tokens of the window, the first of equals.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from lmtailor.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Window:
    """One sequence. Its places are the tokens of the context that have a character which is no space."""

    ids: tuple[int, ...]
    segments: tuple[int, ...] | None
    """Token types; None where the model has none."""
    positions: tuple[int, ...]
    """Where in the sequence the places are."""
    offsets: tuple[tuple[int, int], ...]
    """For each place its first character in the context, and the one after its last, without space around it."""
    begins: tuple[bool, ...]
    """For each place whether an answer may begin here: whether no other window has more context around it."""
    first: bool
    """Whether the context begins here."""
    last: bool
    """Whether the context ends here."""

    def places(self, begin: int, end: int) -> tuple[int, int] | None:
        """The first and the last place of some characters of the context; None where they are not all in the window."""
        own = [place for place, (start, stop) in enumerate(self.offsets) if start < end and stop > begin]
        if not own:
            return None
        reaches_back = own[0] > 0 or self.first or self.offsets[0][0] <= begin
        reaches_on = own[-1] < len(self.offsets) - 1 or self.last or self.offsets[-1][1] >= end
        return (own[0], own[-1]) if reaches_back and reaches_on else None


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Makes windows."""

    tokenizer: PreTrainedTokenizerBase
    limit: int
    """Longest sequence (tokens)."""
    stride: int
    """From the beginning of a window to that of the next (tokens of the context); less where a window is shorter."""
    most_question: int
    """Longest question (tokens); a longer one loses its end."""
    segments: bool

    def of(self, question: str | None, context: str, name: str) -> tuple[tuple[Window, ...], int]:
        """The windows, and the tokens of the question that were cut off.

        Args:
            question: stands before the context; None where the task has none.
            context: holds the answer.
            name: what messages call the example.

        Raises:
            InputError: the question leaves no room, or the context has no token.
        """
        asked, length, cut = (None, 0, 0) if question is None else self._shortened(question)
        room = self.limit - length - self.tokenizer.num_special_tokens_to_add(pair=asked is not None)
        if room < 1:
            raise InputError(
                f"The question of {name} has {length} tokens, which leaves none of {self.limit} for the context. Lower "
                "max_question, or raise max_length."
            )
        overlap = room - min(room, self.stride)
        out = self.tokenizer(
            *([context] if asked is None else [asked, context]),
            truncation="only_first" if asked is None else "only_second",
            max_length=self.limit,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=self.segments,
            return_attention_mask=False,
            verbose=False,
        )
        count = len(out["input_ids"])
        tokens = [
            [at for at, part in enumerate(out.sequence_ids(number)) if part == (0 if asked is None else 1)]
            for number in range(count)
        ]
        if not tokens[0]:
            raise InputError(f"The tokenizer makes no token of the context of {name}: {context[:60]!r}.")
        homes = _homes([len(own) for own in tokens], overlap)
        return tuple(
            self._window(
                tuple(out["input_ids"][number]),
                tuple(out["token_type_ids"][number]) if self.segments else None,
                [
                    (at, home == number, *_trimmed(context, out["offset_mapping"][number][at]))
                    for at, home in zip(own, homes[number], strict=True)
                ],
                first=number == 0,
                last=number == count - 1,
            )
            for number, own in enumerate(tokens)
        ), cut

    def _shortened(self, question: str) -> tuple[str, int, int]:
        """A question of at most `most_question` tokens, how many it has, and how many it lost."""
        out = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        length = len(out["input_ids"])
        if length <= self.most_question:
            return question, length, 0
        short = question[: out["offset_mapping"][self.most_question - 1][1]]
        left = len(self.tokenizer(short, add_special_tokens=False, verbose=False)["input_ids"])
        return short, left, length - left

    def _window(
        self,
        ids: tuple[int, ...],
        segments: tuple[int, ...] | None,
        tokens: Sequence[tuple[int, bool, int, int]],
        *,
        first: bool,
        last: bool,
    ) -> Window:
        """A window, of its context's tokens: position, whether it is their home, and characters."""
        kept = [token for token in tokens if token[2] < token[3]]
        return Window(
            ids=ids,
            segments=segments,
            positions=tuple(position for position, *_ in kept),
            offsets=tuple((begin, end) for _, _, begin, end in kept),
            begins=tuple(home for _, home, *_ in kept),
            first=first,
            last=last,
        )


def _trimmed(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """Characters without the space around them."""
    begin, end = span
    own = text[begin:end]
    return begin + len(own) - len(own.lstrip()), end - len(own) + len(own.rstrip())


def _homes(lengths: Sequence[int], overlap: int) -> list[list[int]]:
    """For each token of each window the number of the window in which it has the most context."""
    firsts = [0]
    for length in lengths[:-1]:
        firsts.append(firsts[-1] + length - overlap)
    best: dict[int, tuple[float, int]] = {}
    for number, (first, length) in enumerate(zip(firsts, lengths, strict=True)):
        for place in range(length):
            score = min(place, length - 1 - place) + 0.01 * length
            if first + place not in best or score > best[first + place][0]:
                best[first + place] = score, number
    return [[best[first + place][1] for place in range(length)] for first, length in zip(firsts, lengths, strict=True)]
