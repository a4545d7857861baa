"""The leaderboard in a terminal."""

import io

import pytest
from rich.console import Console

from lmtailor.compare.leaderboard import Leaderboard, make_leaderboard
from lmtailor.compare.recommend import recommend
from lmtailor.compare.table import show
from tests.compare.synthetic import demo_about, demo_runs


@pytest.fixture(scope="module")
def board() -> Leaderboard:
    about = demo_about(n=600)
    runs = demo_runs(about, failed=[("prefix", 0, "The loss is nan."), ("prefix", 1, "The loss is nan.")])
    return make_leaderboard(about, runs, resamples=100)


def _printed(board: Leaderboard, width: int) -> list[str]:
    text = io.StringIO()
    show(Console(file=text, width=width), board, recommend(board))
    return text.getvalue().splitlines()


def test_at_80_columns_each_cell_has_one_line_with_all_that_counts(board: Leaderboard) -> None:
    lines = _printed(board, 80)
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].split() == ["route", "macro-F1", "ood", "trained", "share", "fit", "memory", "disk"]
    rows = lines[1 : 1 + len(board.rows)]
    for line, row in zip(rows, board.rows, strict=True):
        assert row.cell in line
        assert f"{row.score.value:.3f}" in line
    lora = next(line for line in rows if "LoRA" in line)
    assert "74.9\u202fk" in lora
    assert "0.33\u202f%" in lora
    assert "303\u202fkB" in lora


def test_it_says_what_to_take_and_what_failed(board: Leaderboard) -> None:
    text = "\n".join(_printed(board, 100))
    assert f"Recommended: {recommend(board).cell}" in text
    assert "Failed: prefix, seeds 0 and 1: The loss is nan." in text
    assert "Mind: 2 runs failed (prefix)" in text
    assert "ood: drug_reviews." in text


def test_a_narrow_terminal_keeps_names_and_scores_whole(board: Leaderboard) -> None:
    lines = _printed(board, 50)
    assert all(len(line) <= 50 for line in lines)
    for row in board.rows:
        assert any(row.cell in line and f"{row.score.value:.3f}" in line for line in lines)
