"""Numbers as people read them."""

import pytest

from lmtailor.compare import numbers


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (590, "590"), (999.6, "1.00 k"), (1155, "1.16 k"), (74_883, "74.9 k"), (22_713_216, "22.7 M"), (1.5e9, "1.50 G")],
)
def test_count(value: float, shown: str) -> None:
    assert numbers.count(value).replace("\u202f", " ") == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "–"), (0.42, "0.42 s"), (12.34, "12.3 s"), (99.96, "1 min 40 s"), (245, "4 min 05 s"), (11_220, "3 h 07 min")],
)
def test_duration(value: float, shown: str) -> None:
    assert numbers.duration(value).replace("\u202f", " ") == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "–"), (0.00001, "< 0.01 %"), (0.0031, "0.31 %"), (0.013, "1.3 %"), (1, "100 %")]
)
def test_share(value: float, shown: str) -> None:
    assert numbers.share(value).replace("\u202f", " ") == shown


@pytest.mark.parametrize(("value", "shown"), [(0, "–"), (12, "12 B"), (999.7, "1.00 kB"), (90_900_000, "90.9 MB")])
def test_size(value: float, shown: str) -> None:
    assert numbers.size(value).replace("\u202f", " ") == shown


def test_signs_are_real_and_zero_has_none() -> None:
    assert [numbers.signed(value) for value in (0.012, -0.031, -0.0001, 0.0)] == ["+0.012", "−0.031", "0.000", "0.000"]
    assert [numbers.score(value) for value in (0.7, -0.2, -0.0001)] == ["0.700", "−0.200", "0.000"]


def test_lists_and_names() -> None:
    assert [numbers.listed(list(items)) for items in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
    assert numbers.metric_name("macro_f1") == "macro-F1"
    assert [numbers.p_value(p) for p in (0.002, 0.03, 0.4)] == ["p < 0.01", "p = 0.03", "p = 0.4"]
    assert [numbers.grouped(n) for n in (1500, 38_157)] == ["1500", "38\u202f157"]
