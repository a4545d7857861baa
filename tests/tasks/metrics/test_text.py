"""Metrics of texts agree with their reference programs; intervals and tests are those of resampled texts."""

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from lmtailor.core.errors import InputError
from lmtailor.tasks.metrics.text import TEXT_METRICS, evaluate_texts, get_text_metric, paired_text_difference, perplexity
from lmtailor.tasks.metrics.text.answers import normalised
from tests.tasks.metrics.outputs import EXAMPLE, PREDICTIONS, REFERENCES, e2e_outputs, e2e_published


def value(metric: str, predictions: Sequence[str], references: Sequence[Sequence[str]] = ()) -> float:
    return evaluate_texts([metric], predictions, references, resamples=1)[metric].value


@pytest.mark.parametrize("system", ["chen", "tgen", EXAMPLE])
@pytest.mark.parametrize("metric", ["bleu", "nist"])
def test_published_scores_of_e2e_systems(metric: str, system: str) -> None:
    predictions, references = e2e_outputs(system)
    assert f"{value(metric, predictions, references):.4f}" == e2e_published(system)[metric]


def test_bleu_is_sacrebleus_of_the_corpus() -> None:
    columns: Any = [[own[n] if n < len(own) else None for own in REFERENCES] for n in range(3)]
    expected = BLEU(lowercase=True).corpus_score(PREDICTIONS, columns).score
    assert value("bleu", PREDICTIONS, REFERENCES) == pytest.approx(expected / 100, abs=1e-12)
    assert 0.1 < expected / 100 < 0.9


def test_bleu_smooths_an_order_without_a_match() -> None:
    """By hand: 2/4, then none of 3, 2 and 1, which count as 1/2, 1/4 and 1/8 of a match."""
    by_hand = (2 / 4 * (1 / 2) / 3 * (1 / 4) / 2 * (1 / 8) / 1) ** (1 / 4)
    assert value("bleu", ["a x b y"], [["a b c d"]]) == pytest.approx(by_hand)


def test_nist_by_hand() -> None:
    """Eight words in the references: "a" is 4 of them (1 bit), "b" 2 (2 bits); 2 of 4 "a" are followed by "b" (1 bit)."""
    references = [["a b"], ["a b"], ["a c"], ["a d"]]
    predictions = ["A b", "b a", "a", "x y"]
    one = (1 + 2 + 2 + 1 + 1) / 7
    two = 1 / 3
    penalty = math.exp(math.log(0.5) * (math.log(7 / 8) / math.log(1.5)) ** 2)
    assert value("nist", predictions, references) == pytest.approx((one + two) * penalty)


def test_nist_halves_at_two_thirds_of_the_mean_reference_of_the_corpus() -> None:
    """The second example has three references, so its length weighs three times."""
    references = [["a b c d e f"], ["g h i", "g h i", "g h i"]]
    full = value("nist", ["a b c d e f", "g h i"], references)
    assert value("nist", ["a b c", "g h"], references) < full
    mean = (6 + 3 * 3) / 4
    predictions = ["a b c", ""]
    raw = (3 * math.log2(15) - 0) / 3 + 0
    ratio = 3 / (2 * mean)
    assert value("nist", predictions, references) == pytest.approx(
        raw * math.exp(math.log(0.5) * (math.log(ratio) / math.log(1.5)) ** 2)
    )


@pytest.mark.parametrize(("metric", "kind"), [("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")])
def test_rouge_is_the_mean_over_examples_of_the_best_reference(metric: str, kind: str) -> None:
    scorer = RougeScorer([kind], use_stemmer=True)
    best = [max(scorer.score(one, said)[kind].fmeasure for one in own) for said, own in zip(PREDICTIONS, REFERENCES, strict=True)]
    assert value(metric, PREDICTIONS, REFERENCES) == pytest.approx(np.mean(best))
    assert 0.1 < np.mean(best) < 0.9


def test_answers_are_normalised_as_in_squad() -> None:
    assert normalised(" The  U.S.A.'s\tAnthem, an ode ") == "usas anthem ode"
    assert normalised("A-team") == "ateam"
    assert normalised("theory and “a” quote") == "theory and “ ” quote"


def test_exact_match_and_f1_of_answers() -> None:
    predictions = ["the Denver Broncos.", "Santa Clara", "in 2016", "", "the"]
    references = [["Denver Broncos", "Broncos"], ["Santa Clara, California"], ["2015"], ["gold"], ["a"]]
    assert value("exact_match", predictions, references) == pytest.approx(2 / 5)
    assert value("answer_f1", predictions, references) == pytest.approx((1 + 2 * 2 / 5) / 5)


TAGS = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-LOC", "S-PER"])
PAIR = st.integers(1, 12).flatmap(
    lambda n: st.tuples(st.lists(TAGS, min_size=n, max_size=n), st.lists(TAGS, min_size=n, max_size=n))
)


@given(st.lists(PAIR, min_size=1, max_size=6))
def test_span_f1_is_seqevals(pairs: list[tuple[list[str], list[str]]]) -> None:
    expected = seqeval.metrics.f1_score([right for _, right in pairs], [said for said, _ in pairs], zero_division=0)
    found = value("span_f1", [" ".join(said) for said, _ in pairs], [[" ".join(right)] for _, right in pairs])
    assert found == pytest.approx(expected)


def test_span_f1_refuses_what_are_no_tags() -> None:
    with pytest.raises(InputError, match="Example 2 has 1 tags, but its reference 2"):
        value("span_f1", ["O", "O"], [["O"], ["O O"]])
    with pytest.raises(InputError, match="Example 1 has the tag 'NOUN'"):
        value("span_f1", ["NOUN"], [["O"]])
    with pytest.raises(InputError, match="2 references"):
        value("span_f1", ["O"], [["O", "O"]])


def test_distinct_counts_over_all_texts() -> None:
    texts = ["the cat sat", "The cat ran", "a dog"]
    assert value("distinct_1", texts) == pytest.approx(6 / 8)
    assert value("distinct_2", texts) == pytest.approx(4 / 5)
    assert value("distinct_2", ["a", ""]) == 0


def test_the_interval_of_distinct_is_around_the_value_and_as_wide_as_fresh_texts_differ() -> None:
    """A plain bootstrap would lie below the value: its samples repeat texts."""
    rng = random.Random(0)
    words = [f"w{k}" for k in range(400)]
    weights = [1 / (k + 1) for k in range(400)]

    def corpus() -> list[str]:
        return [" ".join(rng.choices(words, weights, k=8)) for _ in range(100)]

    spread = np.std([value("distinct_1", corpus()) for _ in range(60)])
    score = evaluate_texts(["distinct_1"], corpus())["distinct_1"]
    assert score.low < score.value < score.high
    assert (score.high - score.low) / (2 * 1.96) == pytest.approx(spread, rel=0.35)


def test_perplexity_is_by_token() -> None:
    score = perplexity([-2.0, -6.0], [1, 3])
    assert score.value == pytest.approx(math.exp(2))
    assert score.low == pytest.approx(score.high) == pytest.approx(math.exp(2))
    uneven = perplexity([-1.0, -9.0, -2.0], [1, 3, 2])
    assert uneven.value == pytest.approx(math.exp(2))
    assert uneven.low < uneven.value < uneven.high
    for log_p, tokens in (([], []), ([-1.0], [0]), ([-math.inf], [1]), ([-1.0], [1, 2])):
        with pytest.raises(InputError, match="Perplexity needs"):
            perplexity(log_p, tokens)


@pytest.mark.parametrize("metric", ["bleu", "nist", "rouge_l", "answer_f1"])
def test_an_interval_is_that_of_plainly_resampled_texts(metric: str) -> None:
    """Sums of statistics give what scoring each sample's texts gives; NIST alone keeps what it learnt from all references."""
    chosen = get_text_metric(metric)
    rows = np.array(list(chosen.rows(PREDICTIONS, REFERENCES)))
    rng = np.random.default_rng(1)
    plain = []
    for _ in range(40):
        drawn = rng.integers(0, len(PREDICTIONS), len(PREDICTIONS))
        weights = np.bincount(drawn, minlength=len(PREDICTIONS))[None].astype(float)
        by_sums = float(chosen.value(weights @ rows)[0])
        plain.append((by_sums, value(metric, [PREDICTIONS[i] for i in drawn], [REFERENCES[i] for i in drawn])))
    by_sums, afresh = np.array(plain).T
    assert np.std(afresh) > 0.01
    if metric != "nist":
        np.testing.assert_allclose(by_sums, afresh)


def test_scores_have_n_an_interval_and_progress() -> None:
    told: list[tuple[str, int, int]] = []
    scores = evaluate_texts(
        ["rouge_1", "bleu"], PREDICTIONS, REFERENCES, seed=3, tell=lambda name, done, total: told.append((name, done, total))
    )
    assert list(scores) == ["rouge_1", "bleu"]
    for score in scores.values():
        assert score.n == 5
        assert score.low < score.value < score.high
    assert told[4] == ("rouge_1", 5, 5)
    assert told[-1] == ("bleu", 5, 5)
    assert scores == evaluate_texts(["rouge_1", "bleu"], PREDICTIONS, REFERENCES, seed=3)
    assert scores != evaluate_texts(["rouge_1", "bleu"], PREDICTIONS, REFERENCES, seed=4)


def test_a_paired_test_tells_copies_from_better_systems() -> None:
    better = [own[0] for own in REFERENCES] * 10
    worse = PREDICTIONS * 10
    references = REFERENCES * 10
    same = paired_text_difference("bleu", [worse], [worse, worse], references)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    test = paired_text_difference("bleu", [better], [worse], references)
    assert test.difference == pytest.approx(value("bleu", better, references) - value("bleu", worse, references))
    assert 0 < test.low < test.difference < test.high
    assert test.p < 0.01
    mixed = paired_text_difference("bleu", [better, worse], [worse], references)
    assert mixed.difference == pytest.approx(test.difference / 2)


@pytest.mark.parametrize("metric", [name for name in TEXT_METRICS if name not in ("span_f1", "tag_accuracy", "meteor")])
def test_an_empty_prediction_counts_and_matches_nothing(metric: str) -> None:
    texts = [own[0] for own in REFERENCES]
    if TEXT_METRICS[metric].needs_references:
        assert value(metric, ["", *texts[1:]], REFERENCES) < value(metric, texts, REFERENCES)
    assert value(metric, ["", ""], REFERENCES[:2]) == 0


def test_bad_input_says_what_is_wrong() -> None:
    with pytest.raises(InputError, match="no text metric 'bleau'"):
        value("bleau", ["a"], [["a"]])
    with pytest.raises(InputError, match="no predictions"):
        value("bleu", [], [])
    with pytest.raises(InputError, match="2 predictions, but references for 1"):
        value("bleu", ["a", "b"], [["a"]])
    with pytest.raises(InputError, match="Example 2 has no reference, but bleu"):
        value("bleu", ["a", "b"], [["a"], []])
    with pytest.raises(InputError, match="Example 1 has an empty reference"):
        value("bleu", ["a"], [["a", " "]])
    with pytest.raises(InputError, match="at least one resample"):
        evaluate_texts(["bleu"], ["a"], [["a"]], resamples=0)
    with pytest.raises(InputError, match="different numbers of predictions"):
        paired_text_difference("bleu", [["a"]], [["a", "b"]], [["a"]])
    with pytest.raises(InputError, match="at least one list"):
        paired_text_difference("bleu", [], [["a"]], [["a"]])


def test_the_table_has_metrics_under_their_names() -> None:
    for name, metric in TEXT_METRICS.items():
        assert metric.name == name
        assert metric.about.endswith(".")
        assert metric.greater_is_better
