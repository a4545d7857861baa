"""The report in a real browser: drawn, quiet, and whole on a phone, in light and dark."""

import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lmtailor.compare.leaderboard import make_leaderboard
from lmtailor.compare.recommend import recommend
from lmtailor.compare.report.page import make_page
from lmtailor.compare.report.sensitivity import write_sensitivity_page
from tests.compare.synthetic import DEMO, demo_about, demo_runs
from tests.compare.synthetic_designs import Design, compared, over_bases, over_lengths, over_sizes
from tests.strategies.studies import made_up

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is absent")

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

OUTSIDE = """() => [...document.querySelectorAll('figure svg text')].filter(t => {
    const b = t.getBoundingClientRect(), f = t.closest('figure').getBoundingClientRect();
    return b.width > 0 && (b.left < f.left - 8 || b.right > f.right + 12);
}).map(t => t.textContent)"""
OVERLAPPING = """selector => {
    const texts = [...document.querySelectorAll(selector)].map(t => [t.textContent, t.getBoundingClientRect()])
        .filter(([, b]) => b.width > 0);
    return texts.filter(([, a], i) => texts.some(([, b], j) => i < j && a.left < b.right - 1 && b.left < a.right - 1
        && a.top + 3 < b.bottom - 3 && b.top + 3 < a.bottom - 3)).map(([name]) => name);
}"""
VISIBLE = "e => { const b = e.getBoundingClientRect(); return b.width > 0 && b.height > 0; }"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = {
        "prefix": "a route whose name is longer than most — 日本",
        "BitFit": "a_route_whose_name_is_one_word_without_a_space",
    }
    cells = tuple(replace(cell, name=names.get(cell.name, cell.name)) for cell in DEMO)
    about = replace(demo_about(cells, n=300), reference="probe", notes=("One text is in train and test.",))
    runs = demo_runs(about, cells, failed=[(names["BitFit"], 2, "The loss is nan at step 3. " * 4)])
    board = make_leaderboard(about, runs, resamples=50)
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(make_page(board, runs, recommend(board), folder=Path("run")), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    with playwright.sync_playwright() as p:
        quiet = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-background-networking",
            "--disable-component-update",
        ]
        launched = p.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield launched
        launched.close()


class Opened:
    """A page with what it said and asked for."""

    def __init__(self, browser: object, file: Path, *, width: int, scheme: str) -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[attr-defined]
        self.page = context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def visible(self, selector: str) -> int:
        """How many elements of this kind have an area."""
        return int(self.page.evaluate(f"s => [...document.querySelectorAll(s)].filter({VISIBLE}).length", selector))


@pytest.fixture
def opened(browser: object, report: Path) -> Iterator[functools.partial[Opened]]:
    pages: list[Opened] = []

    def go(*, width: int, scheme: str = "light") -> Opened:
        pages.append(Opened(browser, report, width=width, scheme=scheme))
        return pages[-1]

    yield functools.partial(go)
    for one in pages:
        one.page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1440])
def test_it_is_drawn_quietly_and_fits(opened: functools.partial[Opened], width: int, scheme: str) -> None:
    one = opened(width=width, scheme=scheme)
    assert one.said == []
    assert len(one.asked) == 1, one.asked
    assert one.page.evaluate("document.documentElement.scrollWidth") <= width
    for name, marks in (("parameters", 9), ("domains", 20), ("curves", 7)):
        assert one.visible(f"#{name} svg") == 1, "one of the two drawings is shown"
        assert one.visible(f"#{name} .mark") == marks
    assert one.visible("#confusion td") in (9, 18)
    assert one.visible(".board tbody tr") == 10


def test_texts_of_pictures_lie_inside_their_figures(opened: functools.partial[Opened]) -> None:
    for width in (390, 1440):
        assert opened(width=width).page.evaluate(OUTSIDE) == []


def test_dark_is_dark_and_ink_is_readable(opened: functools.partial[Opened]) -> None:
    def luminance(one: Opened, selector: str, what: str) -> float:
        colour = one.page.evaluate("([s, w]) => getComputedStyle(document.querySelector(s))[w]", [selector, what])
        r, g, b = (int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for scheme, dark in (("light", False), ("dark", True)):
        one = opened(width=1440, scheme=scheme)
        paper = luminance(one, "body", "backgroundColor")
        assert (paper < 0.15) is dark
        for selector, what in (
            ("#parameters svg text", "fill"),
            ("p", "color"),
            (".matrix td", "color"),
            ("figcaption", "color"),
        ):
            assert abs(luminance(one, selector, what) - paper) > 0.3, selector


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_a_sensitivity_study_is_drawn_quietly_and_fits(browser: object, tmp_path: Path, width: int) -> None:
    one = Opened(browser, write_sensitivity_page(made_up(), tmp_path / "s.html"), width=width, scheme="dark")
    assert one.said == []
    assert len(one.asked) == 1
    assert one.page.evaluate("document.documentElement.scrollWidth") <= width
    for side in ("before", "after"):
        assert one.visible(f"#boxes-{side} svg") == 1
        assert one.visible(f"#boxes-{side} .mark") == 2 * 30 + 6
    assert one.visible(".board tbody tr") == 6
    overlapping = """() => [...document.querySelectorAll('.board tbody tr')].some(row => {
        const boxes = [...row.children].map(cell => cell.getBoundingClientRect()).filter(box => box.width && box.height);
        return boxes.some((a, i) => boxes.some((b, j) => i < j && a.left < b.right - 1 && b.left < a.right - 1
            && a.top < b.bottom - 1 && b.top < a.bottom - 1)); })"""
    assert not one.page.evaluate(overlapping)
    one.page.locator("#boxes-before .mark >> visible=true").nth(1).hover(force=True)
    assert "seed 0, set" in one.page.inner_text("#tip")
    one.page.context.close()


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("design", [over_sizes, over_lengths, over_bases], ids=["sizes", "sweeps", "bases"])
def test_designs_are_drawn_quietly_and_fit(browser: object, tmp_path: Path, design: Callable[[], Design], width: int) -> None:
    _, runs, board = compared(*design(), n=200)
    file = tmp_path / "report.html"
    file.write_text(make_page(board, runs, recommend(board), folder=Path("run")), encoding="utf-8")
    one = Opened(browser, file, width=width, scheme="light")
    assert one.said == []
    assert one.page.evaluate("document.documentElement.scrollWidth") <= width
    assert one.page.evaluate(OUTSIDE) == []
    # A line at one height has no area, so zero-shot is not counted.
    shown = {"over_sizes": {"sizes": 12}, "over_lengths": {"sweep-0": 8, "sweep-1": 8, "sweep-2": 3}, "over_bases": {"bases": 4}}
    for name, marks in shown[design.__name__].items():
        assert one.visible(f"#{name} svg") == 1
        assert one.visible(f"#{name} .mark") == marks
        overlapping = one.page.evaluate(OVERLAPPING, f"#{name} svg text")
        assert overlapping == [], name
    one.page.context.close()


def test_marks_show_what_they_stand_for(opened: functools.partial[Opened]) -> None:
    one = opened(width=1440)
    assert not one.page.is_visible("#tip")
    one.page.locator("#parameters .wide .mark").first.hover(force=True)
    assert "parameters trained" in one.page.inner_text("#tip")
    one.page.mouse.move(2, 2)
    assert not one.page.is_visible("#tip")


def test_the_command_is_selected_with_one_click(opened: functools.partial[Opened]) -> None:
    one = opened(width=1440)
    one.page.locator("pre.all").first.click()
    assert one.page.evaluate("getSelection().toString()").strip().startswith("lmtailor predict ")
