"""ROUGE-L, CIDEr and METEOR agree with coco-caption: numbers and words here are its own (pycocoevalcap 1.2 with Java 17)."""

import random
from pathlib import Path

import numpy as np
import pytest

from lmtailor.core.errors import UnsupportedError
from lmtailor.tasks.metrics.text import evaluate_texts
from lmtailor.tasks.metrics.text import meteor as room
from lmtailor.tasks.metrics.text.coco import cider_rows, rouge_rows
from lmtailor.tasks.metrics.text.meteor import meteor_value, whole
from lmtailor.tasks.metrics.text.treebank import words
from tests.tasks.metrics.outputs import EXAMPLE, PREDICTIONS, REFERENCES, e2e_outputs, e2e_published

WORDS = {
    "It isn't cheap; they can't, won't and cannot say why.": "it is n't cheap they ca n't wo n't and can not say why",
    "The café (near the river) costs £20-25, or about $30.50!": (
        "the café -lrb- near the river -rrb- costs # 20-25 or about $ 30.50"
    ),
    '"Well-known" it is -- a 3-star pub... the owner\'s mother-in-law said so.': (
        "well-known it is a 3-star pub the owner 's mother-in-law said so"
    ),
    "Mr. Smith's U.S. tour of 12,000-seater halls begins on 5/6, at 7:30 p.m. today.": (
        "mr. smith 's u.s. tour of 12,000-seater halls begins on 5/6 at 7:30 p.m. today"
    ),
    "I'm gonna eat at Joe's [sic] & AT&T's; you'd've gone, o'clock or not.": (
        "i 'm gon na eat at joe 's -lsb- sic -rsb- & at&t 's you 'd 've gone o'clock or not"
    ),
    "A €1.5bn deal and a 9.1-magnitude quake: see the eyebrow/face page at http://example.org/a.": (
        "a $ 1.5 bn deal and a 9.1-magnitude quake see the eyebrow/face page at http://example.org/a"
    ),
    "In the city centre., next to d'Angelo, D'Angelo and N'Golo.": "in the city centre. next to d'angelo d'angelo and n'golo",
    "It's 5of5, 20ly priced—“great” food…": "it 's 5of5 20ly priced great food",
    "The grey theatre's favourite colour: no. 5, e.g. blue, etc. and so on": (
        "the grey theatre 's favourite colour no. 5 e.g. blue etc. and so on"
    ),
    "Mail me@example.org about 50% of {it}.": "mail me@example.org about 50 % of -lcb- it -rcb-",
    " \t": "",
}


@pytest.mark.parametrize("text", WORDS)
def test_words_are_the_treebanks(text: str) -> None:
    assert words(text) == WORDS[text].split()


def test_rouge_l_is_coco_captions() -> None:
    expected = [0.81818182, 0.43140028, 0.45864662, 0.76144244, 0]
    np.testing.assert_allclose([score for score, _ in rouge_rows(PREDICTIONS, REFERENCES)], expected, atol=1e-8)


def test_cider_is_coco_captions() -> None:
    expected = [5.95866786, 1.84541223, 1.28386505, 3.80616967, 0]
    np.testing.assert_allclose([score for score, _ in cider_rows(PREDICTIONS, REFERENCES)], expected, atol=1e-8)


def test_one_example_is_no_corpus() -> None:
    assert evaluate_texts(["cider"], ["a b c d"], [["a b c d"]])["cider"].value == 0


@pytest.mark.parametrize("system", ["zhaw1", EXAMPLE])
@pytest.mark.parametrize("metric", ["coco_rouge_l", "cider"])
def test_published_scores_of_e2e_systems(metric: str, system: str) -> None:
    predictions, references = e2e_outputs(system)
    score = evaluate_texts([metric], predictions, references, resamples=10)[metric]
    assert f"{score.value:.4f}" == e2e_published(system)[metric]


def test_common_subsequences_are_those_of_the_table() -> None:
    rng = random.Random(1)
    for _ in range(60):
        a, b = (["abc"[rng.randrange(3)] for _ in range(rng.randrange(70))] for _ in range(2))
        table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
        length = table[-1, -1]
        ((score, _),) = rouge_rows([" ".join(a)], [[" ".join(b)]])
        precision, recall = length / max(1, len(a)), length / max(1, len(b))
        expected = 2.44 * precision * recall / (recall + 1.44 * precision) if length else 0
        assert score == pytest.approx(expected)


COUNTS = [
    "12 14 6 8 6 6 6 6 0 0 0 0 0 0 0 0 0 0 0 0 4 12 12",
    "4 4 2 2 2 2 2 2 0 0 0 0 0 0 0 0 0 0 0 0 1 4 4",
    "0 13 0 6 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
]
"""What METEOR 1.5 counts for an output, for one that is its reference, and for an empty one."""


def counts(line: str) -> list[float]:
    return list(map(float, line.split()))


def test_meteor_of_recorded_counts() -> None:
    values = meteor_value(np.array([whole(counts(line)) for line in COUNTS]))
    np.testing.assert_allclose(values, [0.48406698485029875, 1, 0], atol=1e-12)


def program(path: Path, body: str) -> str:
    """A program that stands for Java's."""
    path.write_text(f"#!/bin/sh\n{body}\n", "utf-8")
    path.chmod(0o755)
    return str(path)


def test_meteor_asks_for_each_example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "asked"
    body = f'while read -r line; do echo "$line" >> "{log}"; echo "{COUNTS[0]}"; done'
    java = program(tmp_path / "java", body)
    monkeypatch.setattr(room, "which", lambda name: java)
    monkeypatch.setattr(room, "_jar", lambda: tmp_path / "meteor.jar")
    score = evaluate_texts(["meteor"], ["Isn't it?", "b ||| c"], [["It is.", "Yes, it is!"], ["d"]])["meteor"]
    assert score.value == pytest.approx(0.48406698485029875)
    assert log.read_text("utf-8").splitlines() == ["SCORE ||| it is ||| yes it is ||| is n't it", "SCORE ||| d ||| b | | | c"]


def test_meteor_says_why_its_program_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(room, "_jar", lambda: tmp_path / "meteor.jar")
    for number, (body, why) in enumerate(
        {"echo no memory >&2; exit 1": "no memory", "echo Error: odd; cat": "Error: odd"}.items()
    ):
        java = program(tmp_path / f"java{number}", body)
        monkeypatch.setattr(room, "which", lambda name, java=java: java)
        with pytest.raises(UnsupportedError, match=f"METEOR failed: {why}"):
            evaluate_texts(["meteor"], ["a"], [["a"]])


@pytest.mark.slow
def test_meteor_runs_its_program() -> None:
    try:
        scores = evaluate_texts(["meteor"], PREDICTIONS, REFERENCES)
    except UnsupportedError as error:
        pytest.skip(str(error))
    assert scores["meteor"].value == pytest.approx(0.3645983663633494)


@pytest.mark.slow
def test_meteor_of_the_e2e_example_as_published() -> None:
    predictions, references = e2e_outputs(EXAMPLE)
    try:
        score = evaluate_texts(["meteor"], predictions, references)["meteor"]
    except UnsupportedError as error:
        pytest.skip(str(error))
    assert f"{score.value:.4f}" == e2e_published(EXAMPLE)["meteor"]


def test_meteor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="pip install 'lmtailor\\[meteor\\]'"):
        evaluate_texts(["meteor"], ["a"], [["a"]])
    monkeypatch.setattr(room, "_jar", lambda: "meteor.jar")
    monkeypatch.setattr(room, "which", lambda name: None)
    with pytest.raises(UnsupportedError, match="needs Java"):
        evaluate_texts(["meteor"], ["a"], [["a"]])
