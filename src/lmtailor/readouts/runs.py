"""Which sequences must be run to score every label word once.

Words share a run where the model would see the same: in masked models all words with equally many tokens; where words
are written from left to right, those of which one begins with all but the last token of the other, as every word of one
token does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lmtailor.readouts.words import LabelWord


@dataclass(frozen=True, kw_only=True)
class Run:
    """One sequence of an example."""

    filling: tuple[int, ...]
    """The tokens that are put into the gap: masks, or the tokens that the last ones are predicted from."""
    words: tuple[int, ...]
    """The label words that are read in it, by their number."""


def plan_runs(words: Sequence[LabelWord], mask_id: int | None) -> tuple[Run, ...]:
    """The fewest runs that score all words.

    Args:
        words: the label words.
        mask_id: the mask token of a masked model; None where words are written from left to right.
    """
    if mask_id is not None:
        fillings = [(mask_id,) * len(word.pieces) for word in words]
        chosen = list(dict.fromkeys(fillings))
        homes = fillings
    else:
        fillings = [word.pieces[:-1] for word in words]
        chosen = [
            own for own in dict.fromkeys(fillings) if not any(other != own and other[: len(own)] == own for other in fillings)
        ]
        homes = [next(run for run in chosen if run[: len(own)] == own) for own in fillings]
    return tuple(Run(filling=run, words=tuple(i for i, home in enumerate(homes) if home == run)) for run in chosen)
