"""The page of a sensitivity study: what it says, that it escapes, and that both pictures share rows and axis."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lmtailor.compare.report.sensitivity import constant_score, sensitivity_page, write_sensitivity_page
from lmtailor.strategies.sensitivity_record import SensitivityRecord
from tests.strategies.studies import NAMES, made_up


@pytest.fixture(scope="module")
def record() -> SensitivityRecord:
    return made_up()


@pytest.fixture(scope="module")
def page(record: SensitivityRecord) -> str:
    return sensitivity_page(record)


def test_it_says_the_numbers_of_the_record(record: SensitivityRecord, page: str) -> None:
    for side in record.sides:
        for name in (*record.templates, None):
            row = record.summary(side, name)
            for value in (row.mean.value, row.mean.low, row.worst, row.median, row.best):
                assert f"{value:.3f}" in page
    assert "30 prompts" in page
    assert "It was: 3 of 120 documents lost their end." in page
    differing = sum(test.adjusted < 0.05 for test in record.between_templates("after"))
    assert f"{differing} of 10 pairs differ significantly after calibration" in page


def test_names_and_patterns_are_text(page: str) -> None:
    assert "日本 &amp; &lt;b&gt;" in page
    assert "& <b>" not in page
    assert "Review: {text}\n{{x}}: {mask}" in page


def test_the_same_rows_and_the_same_axis_before_and_after(page: str) -> None:
    ticks, rows = [], []
    for side in ("before", "after"):
        figure = page[page.index(f'id="boxes-{side}"') :].partition("</figure>")[0]
        wide = figure.partition('class="drawing narrow"')[0]
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", wide)
        ticks.append([text for text in texts if re.fullmatch(r"[\d.]+", text)])
        rows.append([text for text in texts if not re.fullmatch(r"[\d.]+", text)])
        assert len(re.findall('data-tip="[^"]*set ', wide)) == 2 * 30  # each with its template, and with all
    assert ticks[0] == ticks[1] != []
    assert rows[0] == rows[1]
    assert "all templates" in rows[0]


def test_every_box_and_point_tells_what_it_is(record: SensitivityRecord, page: str) -> None:
    point, value = record.points[3], record.summary("before").values[3]
    assert f"{point.template}\nseed 0, set 4: {value:.3f}" in page.replace("&#10;", "\n")
    row = record.summary("after", NAMES[1])
    assert f"{NAMES[1]}\nmedian {row.median:.3f}, quartiles {row.lower:.3f} and {row.upper:.3f}" in page.replace("&#10;", "\n")


def test_without_calibration_there_is_one_picture(record: SensitivityRecord) -> None:
    page = sensitivity_page(replace(record, points=tuple(replace(point, after=None, shares=None) for point in record.points)))
    assert page.count("<figure") == 1
    assert "calibration" not in page


def test_one_template_has_nothing_to_be_compared_with() -> None:
    page = sensitivity_page(made_up(templates=1, sets=1))
    assert "Which templates differ" not in page
    assert "1 template, 1 prompt<" in page


def test_the_line_of_always_the_same_answer(record: SensitivityRecord) -> None:
    positive = sum(record.reference) / len(record.reference)
    assert constant_score(record) == pytest.approx(max(positive, 1 - positive))


def test_it_is_written(record: SensitivityRecord, page: str, tmp_path: Path) -> None:
    assert write_sensitivity_page(record, tmp_path / "r.html").read_text("utf-8") == page
