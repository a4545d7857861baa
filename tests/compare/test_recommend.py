"""What is recommended, and what is said about it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from lmtailor.compare.leaderboard import Leaderboard, make_leaderboard
from lmtailor.compare.recommend import Recommendation, cheapest, recommend
from tests.compare.synthetic import BASES, DEMO, Cell, demo_about, demo_runs

FULL = Cell("full", method="full", touches=("weights",), trained=22_000_000, right=0.75, ood=0.6, fit=60)
LORA = Cell("LoRA", method="lora", touches=("projections",), trained=70_000, right=0.75, ood=0.6, fit=40)
PROBE = Cell("probe", trained=1_000, right=0.6, ood=0.5, fit=9)
ASKED = Cell("asked", base="smollm2", readout="verbalizer", right=0.75, ood=0.6, seeds=(0,))
NOTHING = Cell("majority class", base="", readout="majority", method="", seeds=(0,))


def board(cells: Sequence[Cell], *, n: int = 600) -> Leaderboard:
    about = demo_about(cells, n=n)
    return make_leaderboard(about, demo_runs(about, cells), resamples=300)


def advice(cells: Sequence[Cell], *, n: int = 600) -> Recommendation:
    return recommend(board(cells, n=n))


def test_of_equals_the_one_with_fewer_trained_parameters() -> None:
    ours = board([replace(FULL, right=0.755), LORA, PROBE, NOTHING])
    assert (ours.rows[0].cell, ours.rows[1].cell, ours.rows[1].tied) == ("full", "LoRA", True)
    said = recommend(ours)
    assert said.cell == "LoRA"
    assert "cheapest route that is not significantly worse than the best" in said.reason
    assert "70.0\u202fk parameters instead of 22.0\u202fM" in said.reason


def test_the_best_if_all_others_are_worse() -> None:
    said = advice([FULL, replace(LORA, right=0.6), PROBE, NOTHING])
    assert said.cell == "full"
    assert "every other one is significantly worse" in said.reason


def test_a_large_model_that_trains_nothing_is_not_cheap() -> None:
    ours = board([LORA, ASKED, NOTHING])
    assert recommend(ours).cell == "LoRA"
    rows = {row.cell: row for row in ours.rows}
    assert cheapest([rows["LoRA"], rows["asked"]]).cell == "LoRA"
    same_size = replace(rows["asked"], base_parameters=BASES["minilm"])
    assert cheapest([rows["LoRA"], same_size]).cell == "asked"


def test_nothing_is_recommended_if_nothing_is_better_than_the_same_answer() -> None:
    guess = Cell("LoRA", method="lora", trained=70_000, right=-1.0, ood=0.2)
    said = advice([guess, NOTHING], n=300)
    assert said.cell is None
    assert "Nothing is significantly better than always giving the same answer" in said.reason


def test_equals_of_the_best_are_named() -> None:
    said = advice([replace(LORA, right=0.755), replace(FULL, right=0.75), NOTHING])
    assert said.cell == "LoRA"
    assert "Within chance of it, but not cheaper: full. It trains" in said.reason


def test_a_prompt_that_was_searched_for_cost_something_but_trains_nothing() -> None:
    found = Cell("trigger", method="autoprompt", readout="verbalizer", right=0.75, ood=0.6, fit=120)
    said = advice([found, replace(PROBE, right=0.5), NOTHING])
    assert said.cell == "trigger"
    assert "Its prompt is searched for in" in said.reason
    assert not any("Without any training" in remark for remark in said.remarks)


def test_an_empty_board_is_said_plainly() -> None:
    about = demo_about([LORA])
    runs = demo_runs(about, [LORA], failed=[("LoRA", seed, "No.") for seed in (0, 1, 2)])
    said = recommend(make_leaderboard(about, runs))
    assert said.cell is None
    assert "No run came to an end" in said.reason
    assert said.warnings == ("3 runs failed (LoRA); the reasons are listed below.",)


@pytest.mark.parametrize(
    ("cells", "n", "words"),
    [
        ([FULL, PROBE, NOTHING], 120, "Only 120 examples rank the routes"),
        ([replace(FULL, seeds=(0,)), replace(PROBE, seeds=(0,))], 600, "Every route was trained once"),
        ([replace(FULL, ood=0.4), replace(PROBE, ood=0.9)], 600, "On drug_reviews the order is another: probe"),
    ],
)
def test_warnings(cells: list[Cell], n: int, words: str) -> None:
    quiet = advice([FULL, PROBE, NOTHING])
    assert quiet.warnings == ()
    assert any(text.startswith(words) for text in advice(cells, n=n).warnings)


def test_without_a_test_split_the_scores_are_called_too_good() -> None:
    about = replace(demo_about([FULL, PROBE]), split="dev")
    said = recommend(make_leaderboard(about, demo_runs(about, [FULL, PROBE]), resamples=50))
    assert any("There is no test split, so dev ranks" in text for text in said.warnings)


def test_prompting_without_training_is_placed_between_baseline_and_best() -> None:
    remarks = advice(DEMO).remarks
    zero = next(text for text in remarks if "zero-shot" in text)
    assert zero.startswith("Without any training, zero-shot reaches macro-F1 0.")
    assert "against always giving the same answer" in zero
    assert "against the best" in zero
    assert any(text.startswith("Every trained route is significantly better") for text in remarks)
