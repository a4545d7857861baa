"""`lmtailor score`."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from lmtailor.base.load import load_base
from lmtailor.infer.choices import Scored, score
from lmtailor.methods.bitfit import BitFit
from lmtailor.store.adapter import new_adapter
from lmtailor.store.folder import load_adapter, save_adapter
from tests.cli.inputs import Command, Outcome

PROMPTS = ["a movie and it was", "the book was"]
WORDS = [" great", " terrible text"]
GIVEN = tuple(word for prompt in PROMPTS for word in ("--prompt", prompt)) + tuple(w for c in WORDS for w in ("--choice", c))


def _lines(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def _typed(monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode()), encoding="utf-8"))


def _is(line: dict[str, Any], one: Scored) -> None:
    assert line["choices"] == list(one.choices)
    assert line["best"] == one.choices[one.best]
    assert line["scores"] == pytest.approx(one.scores, abs=1e-5)
    assert line["log_p"] == pytest.approx(one.log_p, abs=1e-5)
    assert (line["tokens"], line["bytes"]) == (list(one.tokens), list(one.bytes))


def test_arguments_stdin_and_files_give_the_same_scores(
    lmtailor: Command, decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = _lines(lmtailor("score", decoder, *GIVEN))
    for line, one in zip(given, score(load_base(decoder), PROMPTS, WORDS), strict=True):
        _is(line, one)
    assert [line["id"] for line in given] == [1, 2]
    records = "\ufeff" + "\n\n".join(json.dumps({"prompt": prompt, "choices": WORDS}) for prompt in PROMPTS)
    _typed(monkeypatch, records)
    assert _lines(lmtailor("score", decoder)) == given
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS), encoding="utf-8")
    assert _lines(lmtailor("score", decoder, "--file", tmp_path / "prompts.jsonl", *GIVEN[4:])) == given


def test_records_have_ids_choices_and_domains_of_their_own(
    lmtailor: Command, decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        {"id": "x", "prompt": PROMPTS[0], "choices": [" no", " so so"], "domain": "so"},
        {"id": 7, "prompt": PROMPTS[1], "choices": [" a"]},
    ]
    _typed(monkeypatch, "\n".join(map(json.dumps, records)))
    found = _lines(lmtailor("score", decoder, "--normalise", "pmi", "--domain", "it was"))
    expected = score(load_base(decoder), PROMPTS, [[" no", " so so"], [" a"]], normalise="pmi", domain=["so", "it was"])
    assert [line["id"] for line in found] == ["x", 7]
    for line, one in zip(found, expected, strict=True):
        _is(line, one)


def test_an_adapter_is_attached_and_length_is_divided_by(lmtailor: Command, decoder: Path, tmp_path: Path) -> None:
    base = load_base(decoder)
    adapter = new_adapter(base, method=BitFit(add_missing=True), seed=0)
    save_adapter(adapter.with_state({key: value + 0.2 for key, value in adapter.state.items()}), tmp_path / "bitfit")
    found = _lines(lmtailor("score", decoder, tmp_path / "bitfit", *GIVEN, "--normalise", "length", "--batch-tokens", 4))
    loaded = load_adapter(tmp_path / "bitfit", base)
    expected = score(base, PROMPTS, WORDS, adapter=loaded, normalise="length")
    for line, one, plain in zip(found, expected, score(base, PROMPTS, WORDS), strict=True):
        _is(line, one)
        assert one.log_p != plain.log_p


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "stdin, line 3 is no JSON"),
        ("[1]", "stdin, line 3 is no JSON object"),
        ('{"promt": "a", "choices": ["b"]}', 'stdin, line 3 has no "prompt".*promt'),
        ('{"prompt": "a", "choice": ["b"]}', 'stdin, line 3 has no "choices".*choice'),
        ('{"prompt": 1, "choices": ["b"]}', "stdin, line 3: the prompt must be a text; found 1"),
        ('{"prompt": "a", "choices": "b"}', "stdin, line 3: choices must be a list of texts"),
        ('{"prompt": "a", "choices": []}', "stdin, line 3: choices must be a list of texts"),
        ('{"prompt": "a", "choices": ["b", ""]}', "stdin, line 3: choices must be a list of texts"),
        ('{"prompt": "great m", "choices": ["ovie"]}', "apart from the end of stdin, line 3"),
        ('{"prompt": "", "choices": ["a"]}', "Stdin, line 3 is empty"),
    ],
)
def test_errors_have_the_number_of_the_line(
    lmtailor: Command, decoder: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    _typed(monkeypatch, f'{{"prompt": "it was", "choices": [" a"]}}\n\n{line}\n')
    outcome = lmtailor("score", decoder)
    assert outcome.code == 2
    (error,) = outcome.errors
    assert re.search(message, error), error


def test_a_domain_that_is_no_text_or_missing(lmtailor: Command, decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for record, message in (({"domain": 3}, "must be a text; found 3"), ({}, "stdin, line 1 has none. Give --domain")):
        _typed(monkeypatch, json.dumps({"prompt": "it was", "choices": [" a"], **record}))
        outcome = lmtailor("score", decoder, "--normalise", "pmi")
        assert outcome.code == 2
        assert message in outcome.errors[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--prompt", "a"), "--prompt needs --choice"),
        ((*GIVEN, "--domain", "it"), "--domain needs --normalise pmi"),
        ((*GIVEN, "--file", "x.jsonl"), "leave --file out"),
        (("--file", "absent.jsonl"), "Cannot read absent.jsonl: there is no such file"),
        ((*GIVEN, "--normalise", "letters"), "letters"),
    ],
)
def test_options_that_do_not_go_together(lmtailor: Command, decoder: Path, words: tuple[str, ...], message: str) -> None:
    outcome = lmtailor("score", decoder, *words)
    assert outcome.code == 2
    assert message in outcome.errors[0]
