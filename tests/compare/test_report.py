"""The report as text: complete, escaped, self-contained."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lmtailor.compare.answers import Answers
from lmtailor.compare.leaderboard import Run, make_leaderboard
from lmtailor.compare.recommend import recommend
from lmtailor.compare.report.answers import MOST_LABELS, confusion
from lmtailor.compare.report.canvas import WIDE, Canvas
from lmtailor.compare.report.colours import hue
from lmtailor.compare.report.labels import fitted, spread, text_width
from lmtailor.compare.report.page import make_page
from lmtailor.tasks.metrics import evaluate_predictions
from tests.compare.synthetic import DEMO, Cell, demo_about, demo_runs

NASTY = '</script><img src=x onerror=alert(1)> $\\frac & "q" señor 日本'


class _Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(runs: list[Run], about: object, folder: str = "run") -> str:
    board = make_leaderboard(about, runs, resamples=50)  # type: ignore[arg-type]
    return make_page(board, runs, recommend(board), folder=Path(folder))


@pytest.fixture(scope="module")
def demo() -> str:
    about = replace(demo_about(n=400), reference="probe", notes=("2 texts of test are in train.",))
    return page(demo_runs(about, failed=[("prefix", 1, "The loss is nan at step 3.")]), about)


def test_it_says_all_that_a_report_must(demo: str) -> None:
    text = _Page(demo).text
    for part in (
        "tweets: 10 routes compared",
        "Take LoRA",
        "lmtailor predict models/all-MiniLM-L6-v2 run/runs/LoRA/seed-",
        "not significantly worse than the best",
        "Without any training, zero-shot reaches",
        "2 texts of test are in train.",
        "prefix, seed 1: The loss is nan at step 3.",
        "Against probe",
        "torch2.13.0",
        "22.7\u202fM",
        "0.33\u202f%",
        "majority class",
        "drug_reviews",
    ):
        assert part in text.replace("\n", ""), part


def test_there_are_pictures_and_each_is_told_in_words(demo: str) -> None:
    tags = _Page(demo)
    assert [one["id"] for one in tags.of("figure")] == ["parameters", "domains", "curves", "confusion"]
    told = [one for one in tags.of("div") if one.get("role") == "img"]
    assert len(told) == 6
    assert all("LoRA" in str(one["aria-label"]) for one in told)
    assert len(tags.of("svg")) >= 6


def test_nothing_is_fetched_and_ids_are_unique(demo: str) -> None:
    tags = _Page(demo)
    for _, attributes in tags.tags:
        for name in ("src", "href", "action", "data", "xlink:href"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:")), attributes
    assert "@import" not in demo
    assert not re.search(r"url\((?!#)", demo)
    ids = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {str(attributes["href"])[1:] for attributes in tags.of("use")}
    assert targets <= set(ids)
    assert len(demo.encode()) < 600_000


def test_its_own_script_is_the_only_one_allowed(demo: str) -> None:
    tags = _Page(demo)
    assert len(tags.of("script")) == 1
    policy = next(str(one["content"]) for one in tags.of("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_what_users_write_stays_text() -> None:
    cells = (replace(DEMO[0], name=NASTY), DEMO[1], DEMO[9])
    about = replace(demo_about(cells, n=200, labels=("<b>no</b>", "日本", NASTY)), task=NASTY, notes=(NASTY,))
    runs = demo_runs(about, cells, failed=[(NASTY, 0, NASTY)])
    runs = [replace(run, record=replace(run.record, notes=(NASTY,), settings={"x": NASTY})) for run in runs]
    text = page(runs, about, folder=f"{NASTY}/run")
    tags = _Page(text)
    assert len(tags.of("script")) == 1
    assert not tags.of("img")
    assert not tags.of("b") or all("onerror" not in str(one) for one in tags.of("b"))
    assert NASTY in tags.text
    assert text.count("</script>") == 1


def test_names_with_control_characters_do_not_break_a_picture() -> None:
    cells = (replace(DEMO[0], name="a\x1b[31mb"), DEMO[9])
    about = demo_about(cells, n=100)
    assert "<svg" in page(demo_runs(about, cells), about)


def test_a_comparison_in_which_all_failed_has_a_page_too() -> None:
    cells = (DEMO[0],)
    about = demo_about(cells, n=60)
    text = page(demo_runs(about, cells, failed=[("probe", seed, "No memory.") for seed in (0, 1, 2)]), about)
    assert "Take none of them yet" in text
    assert "seeds 0, 1 and 2: No memory." in _Page(text).text


def test_many_labels_list_the_mistakes_instead_of_a_table() -> None:
    labels = tuple(f"intent {number}" for number in range(MOST_LABELS + 8))
    about = demo_about(DEMO[:2], n=400, labels=labels)
    runs = demo_runs(about, DEMO[:2])
    found = confusion(make_leaderboard(about, runs, resamples=20), runs, "probe")
    assert found.lines == ()
    assert 0 < len(found.pairs) <= 15
    assert "the most frequent mistakes" in page(runs, about).lower()


def test_confusion_counts_are_means_over_seeds() -> None:
    about = demo_about(DEMO[:1], n=300)
    runs = demo_runs(about, DEMO[:1])
    found = confusion(make_leaderboard(about, runs, resamples=20), runs, "probe")
    answers = [one for run in runs if isinstance(one := run.answers["test"], Answers)]
    truth = answers[0].reference
    for i, line in enumerate(found.lines):
        assert line.n == (truth == i).sum()
        assert sum(cell.share for cell in line.cells) == pytest.approx(1)
        for j, cell in enumerate(line.cells):
            counts = [((truth == i) & (one.predicted == j)).sum() for one in answers]
            assert cell.count == pytest.approx(np.mean(counts))
    assert found.pairs[0][2] == max(
        cell.count for i, line in enumerate(found.lines) for j, cell in enumerate(line.cells) if i != j
    )


def test_regression_has_a_scatter_and_no_confusion() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=80)
    cell = DEMO[3]
    about = replace(
        demo_about([cell], n=80), kind="regression", labels=(), metrics=("pearson",), ood=(), sizes={"train": 9, "test": 80}
    )
    runs = []
    for run in demo_runs(demo_about([cell], n=80), [cell]):
        predicted = truth + rng.normal(size=80)
        scores = {"test": evaluate_predictions(["pearson"], predicted, truth, kind="regression", resamples=20)}
        runs.append(
            Run(record=replace(run.record, scores=scores), answers={"test": Answers(predicted=predicted, reference=truth)})
        )
    tags = _Page(page(runs, about))
    assert [one["id"] for one in tags.of("figure")] == ["parameters", "curves", "answers-0"]


def test_colours_come_from_where_a_method_acts_not_from_its_name() -> None:
    cells = [
        *DEMO[:9],
        Cell("new", method="invented", touches=("hidden",), trained=5),
        Cell("both", touches=("hidden", "prefix"), trained=9),
    ]
    board = make_leaderboard(demo_about(cells, n=100), demo_runs(demo_about(cells, n=100), cells), resamples=20)
    found = {row.cell: hue(row).key for row in board.rows}
    assert found["new"] == found["Houlsby"] == "hidden"
    assert (found["both"], found["probe"], found["zero-shot"], found["LoRA"]) == ("mixed", "probe", "prompt", "projections")


def test_labels_spread_without_leaving_their_order_or_bounds() -> None:
    placed = spread([50, 51, 52, 90, 10], gap=10, low=0, high=100)
    assert sorted(placed) == [placed[i] for i in (4, 0, 1, 2, 3)]
    assert min(b - a for a, b in zip(sorted(placed), sorted(placed)[1:], strict=False)) >= 10 - 1e-9
    assert placed[3:] == [90, 10], "what has room stays where it is"
    assert np.mean(placed[:3]) == pytest.approx(51)
    crowded = spread([1, 1, 1], gap=10, low=0, high=10)
    assert crowded == [0, 5, 10]
    assert spread([200], gap=5, low=0, high=100) == [100]


def test_names_are_cut_to_their_room() -> None:
    canvas = Canvas(WIDE, 100, (0, 0, 0, 0))
    assert fitted(canvas, "LoRA", size=12, room=200) == "LoRA"
    cut = fitted(canvas, "a very long name of a route indeed", size=12, room=100)
    assert cut.endswith("…")
    assert text_width(canvas, cut, size=12, bold=True) <= 100
