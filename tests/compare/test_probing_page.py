"""The page of a probing study: what it says, that it escapes, and what its heat maps show."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lmtailor.compare.report.heat import HeatBlock, HeatRow, heat_picture
from lmtailor.compare.report.probing import probing_page, write_probing_page
from lmtailor.strategies.probing_record import ProbingRecord
from tests.compare.probed import COUNTS, TAGS, made_up


@pytest.fixture(scope="module")
def record() -> ProbingRecord:
    return made_up()


@pytest.fixture(scope="module")
def page(record: ProbingRecord) -> str:
    return probing_page(record)


def figure(page: str, name: str) -> str:
    """The wide drawing of a figure."""
    return page[page.index(f'id="{name}"') :].partition("</figure>")[0].partition('class="drawing narrow"')[0]


def tips(drawing: str) -> list[str]:
    return [tip.replace("&#10;", "\n") for tip in re.findall(r'data-tip="([^"]*)"', drawing)]


def test_it_says_the_numbers_of_the_record(record: ProbingRecord, page: str) -> None:
    for base in record.bases:
        for probe in base.probes:
            best = probe.best
            assert best.control is not None
            assert best.selectivity is not None
            for score in (best.score, best.control, best.selectivity, probe.mix.score):
                assert f"{score.value:.3f}" in page
            for one in probe.places:
                assert f'<td class="whole">{one.score.value:.3f}</td>' in page
    assert "0.800" in page
    assert "deep: 3 of 36000 items are cut off." in page
    assert "X has fewer than 10 items in test" in page


def test_names_are_text(page: str) -> None:
    assert "treebank &lt;i&gt;" in page
    assert "日本 &amp; &lt;b&gt;" in page
    assert "<b>日本" not in page
    assert "& <b>" not in page


def test_every_cell_of_the_layers_tells_what_it_is(record: ProbingRecord, page: str) -> None:
    for number, hidden in enumerate((0, 64)):
        said = tips(figure(page, f"layers-{number}"))
        for base in record.bases:
            (probe,) = (one for one in base.probes if one.hidden == hidden)
            for place, one in enumerate(probe.places):
                name = "embeddings" if one.layer == "0" else "mix" if one.layer == "mix" else f"layer {one.layer}"
                own = {tip for tip in said if tip.startswith(f"{base.name}, {name}\n")}
                (only,) = own
                assert f"accuracy {one.score.value:.3f}" in only
                assert one.selectivity is not None
                assert f"selectivity {one.selectivity.value:.3f}" in only
                assert ("share of mix" in only) == (place < len(probe.shares))


def test_tags_are_in_the_order_of_their_frequency(record: ProbingRecord, page: str) -> None:
    drawing = figure(page, "labels-1")
    names = [
        text for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawing) if text[:4] in ("NOUN", "VERB", "日本 &", "a-ta", "X")
    ]
    assert [name[:4] for name in names] == ["NOUN", "VERB", "日本 &", "a-ta", "X"]
    probe = record.bases[1].probes[0]
    rate = probe.places[3].right[0] / COUNTS[0]
    assert f"{TAGS[0]}, deep, layer 3\n{rate:.3f} of 700" in tips(drawing)


def test_fainter_cells_are_lower_values() -> None:
    row = HeatRow(name="r", values=(0.0, 0.5, 1.0, None), tips=tuple("abcd"), ink="accent", low=0.0, high=1.0, best=2)
    picture = heat_picture(
        "p", title="t", alt="a", caption="c", blocks=[HeatBlock(title="b", columns=tuple("wxyz"), rows=(row,))]
    )
    cells = re.findall(r'data-tip="([abcd])"(?:(?!data-tip).)*?opacity: ([\d.]+)', picture.wide, flags=re.DOTALL)
    opacity: dict[str, float] = {}
    for name, value in cells:
        opacity.setdefault(name, float(value))
    assert list(opacity) == ["a", "b", "c"]
    assert opacity["a"] < opacity["b"] < opacity["c"]


def test_without_control_tasks_or_labels_there_is_less(record: ProbingRecord) -> None:
    page = probing_page(made_up(controlled=False))
    assert "selectivity" not in page
    assert "A control task" not in page
    bases = tuple(
        replace(
            base,
            counts=(),
            probes=tuple(replace(one, places=tuple(replace(place, right=()) for place in one.places)) for one in base.probes),
        )
        for base in record.bases
    )
    numbers = probing_page(replace(record, kind="regression", metric="pearson", labels=(), bases=bases))
    assert 'id="labels-0"' not in numbers
    assert "pearson" in numbers


def test_it_is_written(record: ProbingRecord, page: str, tmp_path: Path) -> None:
    assert write_probing_page(record, tmp_path / "r.html").read_text("utf-8") == page
