"""Seeded samples: stable, stratified, independent of what else there is."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lmtailor.tasks.sample import stratified

KEYS = [f"train/{i}" for i in range(100)]
STRATA = ["a"] * 70 + ["b"] * 25 + ["c"] * 5


def test_shares_are_kept() -> None:
    chosen = stratified(STRATA, KEYS, 20, seed=0, name="dev")
    assert chosen == sorted(set(chosen))
    assert Counter(STRATA[i] for i in chosen) == {"a": 14, "b": 5, "c": 1}


def test_every_stratum_gets_one_where_the_count_allows() -> None:
    assert Counter(STRATA[i] for i in stratified(STRATA, KEYS, 3, seed=0, name="dev")) == {"a": 1, "b": 1, "c": 1}
    assert len(stratified(STRATA, KEYS, 2, seed=0, name="dev")) == 2


def test_the_choice_is_the_same_on_every_machine() -> None:
    assert stratified(["x"] * 10, KEYS[:10], 4, seed=7, name="n") == [1, 2, 6, 9]  # the four smallest SHA-256


def test_seed_and_name_change_the_choice() -> None:
    first = stratified(STRATA, KEYS, 20, seed=0, name="dev")
    assert first == stratified(STRATA, KEYS, 20, seed=0, name="dev")
    assert first != stratified(STRATA, KEYS, 20, seed=1, name="dev")
    assert first != stratified(STRATA, KEYS, 20, seed=0, name="limit")


def test_a_larger_sample_contains_the_smaller() -> None:
    small, large = (set(stratified(["x"] * 100, KEYS, count, seed=0, name="n")) for count in (10, 30))
    assert small < large


@given(st.lists(st.sampled_from("abcd"), max_size=40), st.integers(0, 60))
def test_size_is_exact(strata: list[str], count: int) -> None:
    keys = [str(i) for i in range(len(strata))]
    chosen = stratified(strata, keys, count, seed=0, name="n")
    assert len(set(chosen)) == len(chosen) == min(count, len(strata))
    if count >= len(set(strata)):
        assert {strata[i] for i in chosen} == set(strata)
