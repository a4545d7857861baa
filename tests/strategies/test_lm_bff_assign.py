"""The search for the best assignments of words against going through all of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lmtailor.core.errors import InputError
from lmtailor.strategies._lm_bff_assign import best_assignments

Lists = tuple[list[NDArray[np.float64]], list[NDArray[np.int64]], NDArray[np.int64]]


def lists(seed: int, classes: int, words: int, examples: int, *, steps: int = 4) -> Lists:
    """Scores in eighths, so that they tie often and sums are exact; lists that share words."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(examples) % classes)
    scores = [rng.integers(-steps, steps, (examples, words)) / 8 for _ in range(classes)]
    return scores, [rng.choice(2 * words, words, replace=False) for _ in range(classes)], labels


def all_of_them(
    scores: list[NDArray[np.float64]], words: list[NDArray[np.int64]], labels: NDArray[np.int64]
) -> dict[tuple[int, ...], tuple[int, float]]:
    """Every assignment of different words: how many examples are right (of equal scores the first class wins), and Σ log p."""
    out = {}
    for choice in itertools.product(*(range(len(own)) for own in words)):
        if len({int(own[i]) for own, i in zip(words, choice, strict=True)}) < len(words):
            continue
        columns = np.stack([own[:, i] for own, i in zip(scores, choice, strict=True)], axis=1)
        right = int((columns.argmax(1) == labels).sum())
        out[choice] = right, float(columns[np.arange(len(labels)), labels].sum())
    return out


@given(seed=st.integers(0, 2**32), shape=st.sampled_from([(2, 7, 9), (3, 4, 7), (4, 3, 9), (2, 1, 4)]), count=st.integers(1, 12))
def test_it_finds_what_going_through_all_finds(seed: int, shape: tuple[int, int, int], count: int) -> None:
    given_lists = lists(seed, *shape)
    worth = all_of_them(*given_lists)
    if not worth:
        with pytest.raises(InputError, match="different words"):
            best_assignments(*given_lists, count=count, width=1000)
        return
    found = best_assignments(*given_lists, count=count, width=1000)
    rows = [(int(right), float(total)) for right, total in zip(found.right, found.likelihood, strict=True)]
    assert found.exact
    assert rows == sorted(worth.values(), reverse=True)[:count]
    assert [worth[tuple(choice)] for choice in found.choice.tolist()] == rows
    assert len({tuple(choice) for choice in found.choice.tolist()}) == len(rows)


@given(seed=st.integers(0, 2**32), width=st.integers(1, 20))
def test_when_a_narrow_search_says_that_it_is_exact_it_is(seed: int, width: int) -> None:
    given_lists = lists(seed, 4, 4, 12)
    best = sorted(all_of_them(*given_lists).values(), reverse=True)[:3]
    try:
        found = best_assignments(*given_lists, count=3, width=width)
    except InputError:
        return  # all that was kept ran into words that were taken
    rows = [(int(right), float(total)) for right, total in zip(found.right, found.likelihood, strict=True)]
    assert rows <= best
    if found.exact:
        assert rows == best


def test_a_narrow_search_can_miss_and_then_does_not_say_exact() -> None:
    said = [best_assignments(*lists(seed, 4, 4, 12), count=3, width=3).exact for seed in range(30)]
    assert not all(said)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given_lists = lists(3, 3, 6, 9, steps=400)
    whole = best_assignments(*given_lists, count=20, width=50)
    monkeypatch.setattr("lmtailor.strategies._lm_bff_assign._CHUNK", 100)
    parts = best_assignments(*given_lists, count=20, width=50)
    np.testing.assert_array_equal(whole.choice, parts.choice)
    assert whole.exact == parts.exact


def test_one_word_stands_for_one_label_only() -> None:
    scores = [np.array([[0.0, -1.0], [0.0, -1.0]])] * 2
    found = best_assignments(scores, [np.array([7, 8])] * 2, np.array([0, 1]), count=9, width=9)
    assert sorted(found.choice.tolist()) == [[0, 1], [1, 0]]
    with pytest.raises(InputError, match="no 2 different words"):
        best_assignments([own[:, :1] for own in scores], [np.array([7])] * 2, np.array([0, 1]), count=9, width=9)
