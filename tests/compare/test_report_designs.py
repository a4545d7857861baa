"""Pictures of designs: every number in them is one of the leaderboard, at its place."""

import html
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lmtailor.compare.leaderboard import Leaderboard, Row
from lmtailor.compare.numbers import interval, score
from lmtailor.compare.positions import EXAMPLES, Position
from lmtailor.compare.recommend import recommend
from lmtailor.compare.report.canvas import WIDE, Canvas, Picture
from lmtailor.compare.report.designs import axis_name, design_pictures
from lmtailor.compare.report.lines import lines_on, shared_parts, short_names
from lmtailor.compare.report.page import make_page
from lmtailor.compare.report.scale import draw_scale, scale_of
from tests.compare.synthetic import DEMO, Cell, demo_about, demo_runs
from tests.compare.synthetic_designs import LENGTHS, SIZES, compared, over_bases, over_lengths, over_sizes


def pictures(board: Leaderboard) -> dict[str, Picture]:
    return {picture.name: picture for picture in design_pictures(board, recommend(board))}


def tips(picture: Picture) -> list[str]:
    return [html.unescape(text) for text in re.findall(r'data-tip="([^"]*)"', str(picture.wide))]


def texts(picture: Picture) -> list[str]:
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", str(picture.wide))]


def told(row: Row) -> str:
    return f"{row.cell}\nmacro-F1 {score(row.score.value)} {interval(row.score.low, row.score.high)}"


@pytest.fixture(scope="module")
def sizes() -> Leaderboard:
    return compared(*over_sizes())[2]


def test_every_size_is_a_point_and_the_largest_is_ranked(sizes: Leaderboard) -> None:
    assert {row.cell for row in sizes.rows if not row.baseline and not row.untrained} == {
        "full fine-tuning · 500 examples",
        "LoRA · 500 examples",
        "probe · 500 examples",
    }
    assert len(sizes.unranked) == 9
    picture = pictures(sizes)["sizes"]
    found = tips(picture)
    rows = [row for row in sizes.all_rows if "examples" in row.cell]
    assert len(found) == len(rows) + 1, "and zero-shot, to which sizes make no difference"
    for row in [*rows, sizes.row("zero-shot")]:
        assert any(tip.startswith(told(row)) for tip in found), row.cell
    row = sizes.row("LoRA · 50 examples")
    assert f"{told(row)}\n3 seeds from {score(min(row.by_seed))} to {score(max(row.by_seed))}" in found
    assert [text for text in texts(picture) if text in map(str, SIZES)] == list(map(str, SIZES))
    assert {"LoRA", "probe", "full fine-tuning", "zero-shot", "training examples"} <= set(texts(picture))
    for row in rows:
        assert score(row.score.value) in picture.alt
    assert "LoRA: " in picture.alt
    assert "lowest seed to the highest" in picture.caption


def test_other_domains_hold_for_ranked_cells_and_are_kept_for_the_others(sizes: Leaderboard) -> None:
    assert {one.cell for one in sizes.ood} <= {row.cell for row in sizes.rows}
    best = max((row for row in sizes.rows if not row.baseline), key=lambda row: row.scores["drug_reviews"]["macro_f1"].value)
    assert [one.cell for one in sizes.ood] == [best.cell]
    there = [sizes.row(f"LoRA · {size} examples").on("drug_reviews") for size in SIZES]
    assert all(one is not None for one in there)
    assert there[0].value < there[-1].value  # type: ignore[union-attr]


def test_the_page_says_how_routes_with_sizes_are_ranked() -> None:
    _, runs, board = compared(*over_sizes(), failed=[("probe · 50 examples", 1, "The loss is nan.")])
    page = make_page(board, runs, recommend(board), folder=Path("run"))
    assert "A route with several training sizes stands here at its largest." in page
    assert "(of which routes see 50, 100, 200 and 500)" in page
    assert page.count('class="board"') == 1
    assert "<b>probe · 50 examples</b>, seed 1: The loss is nan." in page
    assert page.count("<b>LoRA · 50 examples</b>") == 0
    plain = demo_about(DEMO, n=60)
    from_plain = compared(DEMO, {}, n=60)
    assert "training sizes" not in make_page(from_plain[2], demo_runs(plain), recommend(from_plain[2]), folder=Path("r"))


def test_one_size_alone_is_no_curve() -> None:
    assert pictures(compared(*over_sizes((50,)), n=60)[2]) == {}


def test_a_route_whose_largest_size_failed_is_not_ranked_at_a_smaller() -> None:
    failed = [("LoRA · 500 examples", seed, "No memory.") for seed in (0, 1, 2)]
    board = compared(*over_sizes(), failed=failed, n=60)[2]
    assert not any(row.cell.startswith("LoRA") for row in board.rows)
    line = next(line for line in lines_on(board, EXAMPLES, board.all_rows) if line.name == "LoRA")
    assert [one.text for one, _ in line.points] == ["50", "100", "200"]


def test_a_sweep_over_numbers_and_over_words() -> None:
    board = compared(*over_lengths())[2]
    found = pictures(board)
    assert [picture.title for picture in found.values()] == [
        "What does the method's length change?",
        "What does the method's place change?",
        "What does start change?",
    ]
    length, place, start = found.values()
    assert [text for text in texts(length) if text in map(str, LENGTHS)] == list(map(str, LENGTHS))
    assert {"place front", "place infix"} <= set(texts(length)), "what all lines share stands in the caption"
    assert "Macro-F1 of prefix on test against the method's length, with 95 % intervals." in length.caption
    assert {"front", "infix", "length 1", "length 20"} <= set(texts(place))
    assert [text for text in texts(start) if text in ("random", "vocabulary", "class words")] == [
        "random",
        "vocabulary",
        "class words",
    ]
    assert "soft prompt" not in texts(start), "one line needs no name beside it"
    assert "of soft prompt on test" in start.caption
    assert (len(tips(length)), len(tips(place)), len(tips(start))) == (8, 8, 3)
    for line in lines_on(board, "method.length", board.rows):
        assert [row.cell.split(" · ")[1] for _, row in line.points] == [f"length {n}" for n in LENGTHS]
        for _, row in line.points:
            assert any(tip.startswith(told(row)) for tip in tips(length))


def test_sweeps_show_routes_at_their_largest_size() -> None:
    cells, positions = over_lengths()
    kept, moved = list[Cell](), dict[str, tuple[Position, ...]]()
    for cell in cells[:4]:
        for size in (10, 90):
            name = f"{cell.name} · {size} examples"
            kept.append(replace(cell, name=name))
            own = [replace(one, line=f"{one.line} · {size} examples") for one in positions[cell.name]]
            moved[name] = (*own, Position(axis=EXAMPLES, line=cell.name, text=str(size), number=float(size)))
    found = pictures(compared(kept, moved, n=60)[2])
    assert {tip.partition("\n")[0].rpartition(" · ")[2] for tip in tips(found["sweep-0"])} == {"90 examples"}
    assert len(tips(found["sizes"])) == 8


def test_bases_stand_at_their_parameters() -> None:
    board = compared(*over_bases())[2]
    picture = pictures(board)["bases"]
    assert {"22.7\u202fM", "135\u202fM", "LoRA", "BitFit"} <= set(texts(picture))
    assert len(tips(picture)) == 4
    assert "minilm with 22.7\u202fM and smollm2 with 135\u202fM" in picture.caption
    for row in board.rows[:4]:
        assert any(tip.startswith(told(row)) for tip in tips(picture))
        assert score(row.score.value) in picture.alt


def test_numbers_lie_where_they_belong() -> None:
    log = scale_of([("1", 1.0), ("10", 10.0), ("100", 100.0)])
    assert [log.places[text] for text in ("1", "10", "100")] == [0.0, 1.0, 2.0]
    near = scale_of([("2", 2.0), ("3", 3.0), ("8", 8.0)])
    assert near.places == {"2": 2.0, "3": 3.0, "8": 8.0}
    assert scale_of([("0", 0.0), ("100", 100.0)]).places == {"0": 0.0, "100": 100.0}, "zero has no logarithm"
    words = scale_of([("b", None), ("a", None), ("b", None), ("7", 7.0)])
    assert (words.places, words.numbers) == ({"b": 0.0, "a": 1.0, "7": 2.0}, False)
    assert scale_of([("5", 5.0)]).span == 1.0


def test_ticks_that_are_too_close_lose_their_text_but_not_the_largest() -> None:
    values = [(str(n), float(n)) for n in (1000, 1001, 1002, 5000)]
    canvas = Canvas(WIDE, 100, (0, 0, 0, 0))
    scale = scale_of(values)
    draw_scale(canvas, scale, "steps", size=12)
    assert [tick.get_text() for tick in canvas.axes.get_xticklabels()] == ["1002", "5000"]
    assert len(canvas.axes.xaxis.get_minorticklocs()) >= 2
    assert math.isclose(scale.span, 4000)


def test_names_without_what_all_share() -> None:
    assert short_names(["prefix · head · a", "prefix · head · b"]) == ["a", "b"]
    assert shared_parts(["prefix · head · a", "prefix · head · b"]) == "prefix · head"
    assert short_names(["prefix", "prefix · a"]) == ["prefix", "prefix · a"], "nothing would be left of the first"
    assert shared_parts(["prefix", "prefix · a"]) == shared_parts(["a", "b"]) == ""
    assert short_names(["only · one"]) == ["only · one"]
    assert shared_parts(["only · one"]) == "only · one"


def test_axes_in_running_text() -> None:
    assert axis_name("method.prefix_length") == "the method's prefix length"
    assert axis_name("readout.demonstrations.k") == "the readout's demonstrations k"
    assert axis_name("start") == "start"
