"""The best assignments of one word to each class, out of a list of words for each.  Gao et al. 2021, section 5.1.

An assignment's worth is how many examples it gets right: those whose own class's word scores highest, of equals the first
class. Of equal worth the likelier is better, by Σ over examples of the log-probability of their own class's word.

All assignments are K^C. Classes are added one after the other, and of the partial assignments the `width` best are kept, by a
bound that none of their completions can exceed:

    right     the examples that may still come out right: the own word (or, if its class has none yet, the best of its list)
              beats the words chosen so far and, of each class still to come, the worst word of the list
    likelier  the sum so far, and of each class still to come its likeliest word

Where nothing is let go (with width ≥ K², always up to three classes), or nothing that was let go has a bound above the last
assignment that is returned, the result is exact; it says so.

Shapes: n examples, C classes, K words of a class, B partial assignments.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmtailor.core.errors import InputError

_CHUNK = 1 << 24
"""Comparisons at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Assignments:
    """The best assignments, in order."""

    choice: NDArray[np.int64]
    """(A, C): of each class the number of its word in the class's list."""
    right: NDArray[np.int64]
    """(A,): how many examples come out right."""
    likelihood: NDArray[np.float64]
    """(A,): Σ log p of each example's own word."""
    exact: bool
    """Whether these are provably the best of all; else of those that the width let through."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Partial:
    """Assignments of the first classes."""

    choice: NDArray[np.int64]
    """(B, classes so far)."""
    own_Bn: NDArray[np.float64]
    """The score of the example's own word; of the best there is, if its class has none yet."""
    rival_Bn: NDArray[np.float64]
    """What it must reach."""
    likelihood_B: NDArray[np.float64]
    right_B: NDArray[np.int64]


class _Lists:
    """The scores of the classes' words, prepared."""

    def __init__(
        self, scores: Sequence[NDArray[np.float64]], words: Sequence[NDArray[np.int64]], labels: NDArray[np.int64]
    ) -> None:
        self.scores, self.words, self.labels = [np.asarray(own, np.float64) for own in scores], words, labels
        classes = range(len(scores))
        # Of equal scores the first class wins, so a class before the example's own must be beaten, not reached.
        self.rivals = [np.where((labels > c)[:, None], np.nextafter(self.scores[c], np.inf), self.scores[c]) for c in classes]
        self.gains = [self.scores[c][labels == c].sum(0) for c in classes]
        self.later = np.array([sum(self.gains[d].max() for d in classes if d > c) for c in classes])
        least = np.stack([np.where(labels == c, -np.inf, self.rivals[c].min(1)) for c in classes])
        nothing = np.full(len(labels), -np.inf)
        self.floors = [np.max([nothing, *least[c + 1 :]], axis=0) for c in classes]

    def start(self) -> _Partial:
        """Nothing assigned."""
        hope = np.array([self.scores[label][i].max() for i, label in enumerate(self.labels)])
        return _Partial(
            choice=np.empty((1, 0), np.int64),
            own_Bn=hope[None],
            rival_Bn=np.full((1, len(self.labels)), -np.inf),
            likelihood_B=np.zeros(1),
            right_B=np.zeros(1, np.int64),
        )

    def bounds(self, partial: _Partial, rows: slice, c: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(b, K) bounds of some partial assignments with each word of class c; -1 where another class has the word."""
        mine, floor = self.labels == c, self.floors[c]
        rival_bn, own_bn = np.maximum(partial.rival_Bn[rows], floor), partial.own_Bn[rows]
        right_bK = (self.scores[c][mine].T[None] >= rival_bn[:, None, mine]).sum(2)
        alive_bn = (own_bn >= rival_bn)[:, ~mine]
        right_bK += (alive_bn[:, None] & (own_bn[:, None, ~mine] >= self.rivals[c][~mine].T[None])).sum(2)
        for d, chosen_b in enumerate(partial.choice[rows].T):
            right_bK[self.words[d][chosen_b][:, None] == self.words[c][None]] = -1
        return right_bK, partial.likelihood_B[rows, None] + self.gains[c][None]

    def extended(self, partial: _Partial, c: int, parents: NDArray[np.int64], words: NDArray[np.int64]) -> _Partial:
        """Partial assignments with a word of class c each."""
        mine = self.labels == c
        own_Bn, rival_Bn = partial.own_Bn[parents], partial.rival_Bn[parents]
        own_Bn[:, mine] = self.scores[c].T[words][:, mine]
        rival_Bn[:, ~mine] = np.maximum(rival_Bn, self.rivals[c].T[words])[:, ~mine]
        return _Partial(
            choice=np.concatenate([partial.choice[parents], words[:, None]], axis=1),
            own_Bn=own_Bn,
            rival_Bn=rival_Bn,
            likelihood_B=partial.likelihood_B[parents] + self.gains[c][words],
            right_B=(own_Bn >= np.maximum(rival_Bn, self.floors[c])).sum(1),
        )


def best_assignments(
    scores: Sequence[NDArray[np.float64]],
    words: Sequence[NDArray[np.int64]],
    labels: NDArray[np.int64],
    *,
    count: int,
    width: int,
) -> Assignments:
    """The best assignments of different words.

    Args:
        scores: of each class (n, K): the log-probability of each word of its list in every example.
        words: of each class (K,): what the words are, as numbers; a word stands for one class only.
        labels: (n,) the classes of the examples.
        count: how many assignments at most.
        width: how many partial assignments are kept.

    Raises:
        InputError: there is no assignment of different words.
    """
    lists = _Lists(scores, words, labels)
    partial, lost = lists.start(), (-1, -np.inf)
    for c in range(len(scores)):
        last = c == len(scores) - 1
        (parents, chosen), dropped = _best(lists, partial, c, count if last else max(width, count))
        if not len(parents):
            raise InputError(f"The lists have no {len(scores)} different words, one for each class. Ask for longer lists.")
        partial = lists.extended(partial, c, parents, chosen)
        lost = lost if last else max(lost, dropped)
    end = (int(partial.right_B[-1]), float(partial.likelihood_B[-1]))
    full = len(partial.choice) == count
    return Assignments(
        choice=partial.choice,
        right=partial.right_B,
        likelihood=partial.likelihood_B,
        exact=lost[0] < 0 or (full and end >= lost),
    )


def _best(
    lists: _Lists, partial: _Partial, c: int, limit: int
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], tuple[int, float]]:
    """Parents and words of the extensions with the highest bounds, and the highest bound of those let go."""
    many, each = len(partial.choice), len(lists.words[c])
    step = max(1, _CHUNK // (each * len(lists.labels)))
    right, likelihood = np.empty(0, np.int64), np.empty(0)
    where = np.empty(0, np.int64)
    lost = (-1, -np.inf)
    for begin in range(0, many, step):
        right_bK, likelihood_bK = lists.bounds(partial, slice(begin, begin + step), c)
        allowed = right_bK.ravel() >= 0
        right = np.concatenate([right, right_bK.ravel()[allowed]])
        likelihood = np.concatenate([likelihood, likelihood_bK.ravel()[allowed] + lists.later[c]])
        where = np.concatenate([where, begin * each + np.flatnonzero(allowed)])
        order = np.lexsort((where, -likelihood, -right))
        if len(order) > limit:
            first = order[limit]
            lost = max(lost, (int(right[first]), float(likelihood[first])))
        order = order[:limit]
        right, likelihood, where = right[order], likelihood[order], where[order]
    return (where // each, where % each), lost
