"""The leaderboard's numbers, against plain loops over the same predictions."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from lmtailor.compare.answers import Answers
from lmtailor.compare.folder import About
from lmtailor.compare.leaderboard import Leaderboard, Run, make_leaderboard
from lmtailor.core.errors import InputError
from lmtailor.tasks.metrics import paired_difference
from lmtailor.tasks.metrics.means import mean_scores
from tests.compare.synthetic import demo_about, demo_runs

RESAMPLES = 300


@pytest.fixture(scope="module")
def about() -> About:
    return demo_about(n=400)


@pytest.fixture(scope="module")
def runs(about: About) -> list[Run]:
    return demo_runs(
        about, failed=[("prefix", 1, "The loss is nan."), ("BitFit", 0, "No."), ("BitFit", 1, "No."), ("BitFit", 2, "No.")]
    )


@pytest.fixture(scope="module")
def board(about: About, runs: list[Run]) -> Leaderboard:
    return make_leaderboard(about, runs, resamples=RESAMPLES)


def _answers(runs: list[Run], cell: str, split: str = "test") -> list[Answers]:
    found = [run.answers[split] for run in runs if run.record.cell == cell and run.record.status == "done"]
    return [one for one in found if isinstance(one, Answers)]


def _f1(answers: Answers) -> float:
    return float(f1_score(answers.reference, answers.predicted, average="macro"))


def test_scores_are_means_over_the_seeds_that_ended(board: Leaderboard, runs: list[Run]) -> None:
    for row in board.rows:
        values = [_f1(answers) for answers in _answers(runs, row.cell)]
        assert row.by_seed == pytest.approx(values)
        assert row.score.value == pytest.approx(np.mean(values))
        assert row.on("drug_reviews").value == pytest.approx(  # type: ignore[union-attr]
            np.mean([_f1(answers) for answers in _answers(runs, row.cell, "drug_reviews")])
        )


def test_rows_stand_in_the_order_of_their_scores(board: Leaderboard) -> None:
    values = [row.score.value for row in board.rows]
    assert values == sorted(values, reverse=True)
    assert board.best is board.rows[0]
    assert board.baseline is board.row("majority class")


def test_costs_are_means_and_memory_the_largest(board: Leaderboard, runs: list[Run]) -> None:
    records = [run.record for run in runs if run.record.cell == "LoRA"]
    row = board.row("LoRA")
    assert row.fit_seconds == pytest.approx(np.mean([record.fit_seconds for record in records]))
    assert row.peak_memory == max(record.peak_memory for record in records)
    assert row.share == pytest.approx(records[0].trained_parameters / records[0].base_parameters)


def test_failures_are_counted_and_do_not_hide_the_seeds_that_ended(board: Leaderboard) -> None:
    assert (board.row("prefix").seeds, board.row("prefix").failed) == ((0, 2), (1,))
    assert "BitFit" not in [row.cell for row in board.rows]
    assert board.failed_cells() == [("BitFit", "seeds 0, 1 and 2", "No."), ("prefix", "seed 1", "The loss is nan.")]
    with pytest.raises(InputError, match="Did you mean LoRA"):
        board.row("LoRa")


def test_intervals_agree_with_a_plain_bootstrap_over_texts_and_seeds(runs: list[Run]) -> None:
    answers = _answers(runs, "full fine-tuning")
    predicted = np.stack([one.predicted for one in answers])
    reference = answers[0].reference
    rng, drawn = np.random.default_rng(5), []
    for _ in range(1500):
        texts = rng.integers(0, len(reference), len(reference))
        seeds = rng.integers(0, len(predicted), len(predicted))
        drawn.append(np.mean([np.mean(predicted[seed, texts] == reference[texts]) for seed in seeds]))
    ours = mean_scores(["accuracy"], predicted, reference, resamples=3000)["accuracy"]
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.006)
    assert ours.value == pytest.approx(np.mean(predicted == reference))
    assert ours.n == len(reference)


def test_the_interval_knows_of_seeds_that_disagree() -> None:
    reference = np.tile([0, 1], 200)
    alike = np.stack([reference, reference])
    apart = np.stack([reference, 1 - reference])
    same = mean_scores(["accuracy"], alike, reference)["accuracy"]
    torn = mean_scores(["accuracy"], apart, reference)["accuracy"]
    assert (same.low, same.high) == (1.0, 1.0)
    assert torn.low == pytest.approx(0.0, abs=0.02)
    assert torn.high == pytest.approx(1.0, abs=0.02)


def test_regression_has_means_and_intervals_too() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=120)
    score = mean_scores(["pearson"], [truth + rng.normal(size=120), truth + rng.normal(size=120)], truth)["pearson"]
    assert 0.4 < score.low < score.value < score.high < 0.95


def test_predictions_must_be_of_the_same_texts() -> None:
    with pytest.raises(InputError, match="3 predictions for 2 examples"):
        mean_scores(["accuracy"], [[0, 1, 1]], [0, 1])


def test_marks_come_from_the_paired_test_against_the_best(board: Leaderboard, runs: list[Run]) -> None:
    best = board.rows[0]
    assert best.tied
    assert best.to_best is None
    others = [row for row in board.rows if row is not best]
    assert {row.tied for row in others} == {True, False}, "the made-up comparison should have both"
    for row in others:
        a, b = (np.stack([one.predicted for one in _answers(runs, cell)]) for cell in (row.cell, best.cell))
        test = paired_difference("macro_f1", a, b, _answers(runs, best.cell)[0].reference, resamples=RESAMPLES)
        assert row.to_best == test
        assert row.tied == (test.p >= 0.05)
        assert test.difference == pytest.approx(row.score.value - best.score.value)


def test_the_plans_reference_and_the_baseline_are_tested_against(about: About, runs: list[Run]) -> None:
    board = make_leaderboard(replace(about, reference="probe"), runs, resamples=50)
    lora = board.row("LoRA")
    assert lora.to_reference is not None
    assert lora.to_reference.difference == pytest.approx(lora.score.value - board.row("probe").score.value)
    assert lora.to_baseline is not None
    assert lora.to_baseline.difference == pytest.approx(lora.score.value - board.row("majority class").score.value)
    assert board.row("probe").to_reference is None


def test_out_of_domain_has_its_own_best(board: Leaderboard) -> None:
    (one,) = board.ood
    there = {row.cell: row.on("drug_reviews").value for row in board.rows if not row.baseline}  # type: ignore[union-attr]
    assert one.cell == max(there, key=lambda cell: there[cell]) != board.rows[0].cell
    assert one.winner is not None
    assert one.winner.difference == pytest.approx(there[board.rows[0].cell] - there[one.cell])


def test_a_board_of_failures_has_no_rows(about: About, runs: list[Run]) -> None:
    failed = [Run(record=replace(run.record, status="failed", reason="No."), answers={}) for run in runs]
    board = make_leaderboard(about, failed)
    assert (board.rows, board.best, len(board.failures)) == ((), None, len(runs))
