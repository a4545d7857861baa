"""Words of several tokens in masked models, filled one token after the other, the most probable first.

    while masks are open: j = argmax_i log p(w_i | text with what is filled);  s_w += log p(w_j | …);  fill w_j

Schick & Schütze 2021, arXiv:2009.07118, section 3.1. Each token of a word needs a pass of its own; words of which the model
would see the same share one. While fitting all masks are open together, which is what the paper trains with.

Shapes: n examples, W label words, N sequences, P the most positions that a sequence reads, C labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.edits.edits import Edits
from lmtailor.infer.score import Progress, score_rows
from lmtailor.readouts.batch import Batch, Encoded, InputForm, collate
from lmtailor.readouts.likelihood import log_probabilities
from lmtailor.readouts.readout import Reading
from lmtailor.readouts.verbalizer_reading import VerbalizerReading
from lmtailor.tasks.example import TaskKind


def score_encoded(
    base: Base,
    edits: Edits,
    reading: Reading,
    items: Sequence[Encoded],
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Scores (units, C) of each encoded example, in one pass or in as many as the readout asks for; see `score_rows`."""
    if not takes_passes(reading):
        return score_rows(base, edits, reading, items, batch_size=batch_size, progress=progress)
    words = words_one_by_one(base, edits, reading, items, batch_size=batch_size, progress=progress)
    return list(torch.split(reading.scoring.label_scores(words), 1))


def takes_passes(reading: Reading) -> TypeGuard[VerbalizerReading]:
    """Whether a readout fills masks one by one, so that its examples need several passes."""
    return isinstance(reading, VerbalizerReading) and reading.one_by_one


def words_one_by_one(
    base: Base,
    edits: Edits,
    reading: VerbalizerReading,
    items: Sequence[Encoded],
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> Tensor:
    """The words' log-probabilities (n, W), on the CPU.

    Args:
        base: the model.
        edits: of the adapter.
        reading: of a masked model, with words of several tokens.
        items: its examples, encoded: all masks open.
        batch_size: sequences in a batch.
        progress: told after every pass how many examples are done.
    """
    scores = torch.zeros(len(items), len(reading.words))
    opened = [word for i, item in enumerate(items) for word in _opened(reading, i, item)]
    while opened:
        seen: dict[tuple[int, ...], list[_Word]] = {}
        for word in opened:
            seen.setdefault(word.sequence, []).append(word)
        asked = [_item(sequence, words) for sequence, words in seen.items()]
        tokens = _Tokens(form=reading.form, width=max(len(item.read[0]) for item in asked))
        rows = score_rows(base, edits, tokens, asked, batch_size=batch_size)
        opened = []
        for (row_P,), words in zip(rows, seen.values(), strict=True):
            first = 0
            for word in words:
                own = row_P[first : first + len(word.left)]
                best = int(own.argmax())
                scores[word.example, word.number] += own[best]
                opened += word.filled(best)
                first += len(word.left)
        if progress is not None:
            progress(len(items) - len({word.example for word in opened}), len(items))
    return scores


@dataclass(frozen=True, kw_only=True)
class _Word:
    """A word of which masks are open."""

    example: int
    number: int
    """Among the label words."""
    sequence: tuple[int, ...]
    """The text with what is filled."""
    left: tuple[tuple[int, int], ...]
    """Position and token of each open mask."""

    def filled(self, chosen: int) -> list["_Word"]:
        """The word with one more token filled; none if it was the last."""
        position, token = self.left[chosen]
        sequence = (*self.sequence[:position], token, *self.sequence[position + 1 :])
        left = self.left[:chosen] + self.left[chosen + 1 :]
        return [replace(self, sequence=sequence, left=left)] if left else []


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """Reads the log-probability of each token that is expected."""

    form: InputForm
    width: int
    """P."""
    layers: tuple[int, ...] = ()
    virtual: bool = False
    kind: TaskKind = "classification"

    def prompt(self) -> tuple[int, ...]:
        """Nothing."""
        return ()

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Sequences as one batch."""
        return collate(items, self.form)

    def scores(self, base: Base, states: States, batch: Any, *, training: bool = False, normalised: bool = False) -> Tensor:
        """(N, P); 0 where nothing is expected."""
        log_p_NP = log_probabilities(base, states.last_NTH, batch.read_NP, batch.targets_NP)
        return pad(log_p_NP, (0, self.width - log_p_NP.shape[1]))


def _opened(reading: VerbalizerReading, example: int, item: Encoded) -> list[_Word]:
    """An example's words, all masks open."""
    out = []
    for shared, sequence, read, targets in zip(reading.runs, item.sequences, item.read, item.targets, strict=True):
        first = 0
        for number in shared.words:
            last = first + len(reading.words[number].pieces)
            left = tuple(zip(read[first:last], targets[first:last], strict=True))
            out.append(_Word(example=example, number=number, sequence=sequence, left=left))
            first = last
    return out


def _item(sequence: tuple[int, ...], words: Sequence[_Word]) -> Encoded:
    spots = [spot for word in words for spot in word.left]
    read, targets = zip(*spots, strict=True)
    return Encoded(sequences=(sequence,), read=(read,), targets=(targets,))
