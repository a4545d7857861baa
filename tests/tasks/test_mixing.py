"""How much of each task a mixture has: the papers' formulas, and draws that depend on the seed and names alone."""

from collections import Counter
from itertools import islice

import pytest

from lmtailor.core.errors import InputError
from lmtailor.tasks.mixing import Mixing, counts_of, draws


def test_shares_are_the_papers() -> None:
    sizes, templates = [100_000, 1_500, 600_000], [2, 3, 5]
    assert Mixing().shares(sizes, templates) == pytest.approx([3000 / 7500, 1500 / 7500, 3000 / 7500])
    total = 100_000 + 1_500 + 100_000
    assert Mixing(scheme="t0").shares(sizes, templates) == pytest.approx([100_000 / total, 1_500 / total, 100_000 / total])
    assert Mixing(scheme="equal").shares(sizes, templates) == pytest.approx([1 / 3] * 3)
    roots = [100_000**0.5, 1_500**0.5, 600_000**0.5]
    assert Mixing(scheme="temperature").shares(sizes, templates) == pytest.approx([root / sum(roots) for root in roots])
    assert Mixing(scheme="temperature", temperature=0.001).shares(sizes, templates) == pytest.approx([0, 0, 1])
    one = Mixing(scheme="temperature", temperature=1, cap=3000)
    assert one.shares(sizes, templates) == pytest.approx(Mixing().shares(sizes, templates))


def test_counts_add_up_and_keep_shares() -> None:
    assert counts_of([0.5, 0.25, 0.25], 10) == [5, 3, 2]
    assert counts_of([1 / 3] * 3, 100) == [34, 33, 33]
    assert sum(counts_of(Mixing().shares([7, 11, 13], [1, 1, 1]), 97)) == 97


def test_a_draw_repeats_nothing_before_each_example_had_each_template() -> None:
    ids = [f"train/{i}" for i in range(7)]
    found = list(islice(draws(ids, 3, seed=0, name="a"), 42))
    for start in (0, 7, 14):
        assert sorted(i for i, _ in found[start : start + 7]) == list(range(7))
    assert set(Counter(found[:21]).values()) == {1}
    assert set(Counter(found).values()) == {2}
    assert [i for i, _ in found[:7]] != [i for i, _ in found[7:14]]
    assert found == list(islice(draws(ids, 3, seed=0, name="a"), 42))
    assert found != list(islice(draws(ids, 3, seed=1, name="a"), 42))
    more = [i for i, _ in islice(draws([*ids, "train/7"], 3, seed=0, name="a"), 8) if i < 7]
    assert more == [i for i, _ in found[:7]]


@pytest.mark.parametrize("settings", [{"cap": 0}, {"temperature": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be"):
        Mixing(**settings)  # type: ignore[arg-type]
