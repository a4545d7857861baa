"""`lmtailor generate`."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lmtailor.base.load import load_base
from lmtailor.cli import say
from lmtailor.infer.generate import generate
from lmtailor.infer.written import Generated
from lmtailor.methods.lora import LoRA
from lmtailor.store.folder import save_adapter
from tests.cli.inputs import Command, Outcome
from tests.store.adapters import moved_adapter

PROMPTS = ["a movie and it was", "the book was", "so"]
GIVEN = tuple(word for prompt in PROMPTS for word in ("--prompt", prompt))
SHORT = ("--max-new-tokens", 6)


def _lines(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def _typed(monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode()), encoding="utf-8"))


def _line(key: object, one: Generated) -> dict[str, Any]:
    return {"id": key, "text": one.text, "ended": one.ended, "tokens": len(one.tokens)}


def test_arguments_stdin_and_files_give_the_same_texts(
    lmtailor: Command, decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = _lines(lmtailor("generate", decoder, *GIVEN, *SHORT))
    expected = generate(load_base(decoder), None, PROMPTS, max_new_tokens=6)
    assert given == [_line(number, one) for number, one in enumerate(expected, start=1)]
    _typed(monkeypatch, "\n".join(PROMPTS))
    assert _lines(lmtailor("generate", decoder, *SHORT)) == given
    records = "\ufeff" + "\n\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS)
    _typed(monkeypatch, records)
    assert _lines(lmtailor("generate", decoder, "--json", *SHORT)) == given
    (tmp_path / "prompts.jsonl").write_text(records, encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    for name in ("prompts.jsonl", "prompts.txt"):
        assert _lines(lmtailor("generate", decoder, "--file", tmp_path / name, *SHORT)) == given


def test_records_have_ids_and_line_breaks(lmtailor: Command, decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _typed(monkeypatch, '{"id": "x", "prompt": "a\\nmovie"}\n{"id": 7, "prompt": "so"}')
    expected = generate(load_base(decoder), None, ["a\nmovie", "so"], max_new_tokens=6)
    found = _lines(lmtailor("generate", decoder, "--json", *SHORT))
    assert found == [_line(key, one) for key, one in zip(("x", 7), expected, strict=True)]


def test_settings_and_an_adapter_act(lmtailor: Command, decoder: Path, tmp_path: Path) -> None:
    base = load_base(decoder)
    adapter = moved_adapter(base, LoRA(rank=2), by=0.5)
    save_adapter(adapter, tmp_path / "lora")
    words = ("generate", decoder, tmp_path / "lora", *GIVEN, *SHORT)
    for options, settings in (
        ((), {}),
        (("--beams", 3, "--length-penalty", 0.5), {"beams": 3, "length_penalty": 0.5}),
        (
            ("--temperature", 1.5, "--top-k", 50, "--top-p", 0.9, "--seed", 4),
            {"temperature": 1.5, "top_k": 50, "top_p": 0.9, "seed": 4},
        ),
        (("--stop", "a", "--stop", "e"), {"stop": ["a", "e"]}),
    ):
        expected = generate(base, adapter, PROMPTS, max_new_tokens=6, **settings)
        assert _lines(lmtailor(*words, *options)) == [_line(number, one) for number, one in enumerate(expected, start=1)]


def test_prompts_of_later_chunks_have_draws_of_their_own(
    lmtailor: Command, decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("generate", decoder, *("--prompt", "so") * 3, "--temperature", 2, *SHORT)
    whole = _lines(lmtailor(*words))
    monkeypatch.setattr("lmtailor.cli.generate.CHUNK", 1)
    assert _lines(lmtailor(*words)) == whole
    assert len({line["text"] for line in whole}) == 3


def test_a_terminal_gets_text_as_it_comes(lmtailor: Command, decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "".join(f"{one.text}\n" for one in generate(load_base(decoder), None, PROMPTS, max_new_tokens=6))
    assert lmtailor("generate", decoder, *GIVEN, *SHORT, "--output", "text").out == expected
    monkeypatch.setattr(say, "in_terminal", lambda: True)
    assert lmtailor("generate", decoder, *GIVEN, *SHORT).out == expected
    assert len(_lines(lmtailor("generate", decoder, *GIVEN, *SHORT, "--output", "json"))) == 3


@pytest.mark.parametrize(
    ("data", "words", "message"),
    [
        ("a\n\nb", (), "Stdin, line 2 is an empty prompt"),
        ('{"prompt": "a"}\n{"promt": "b"}', ("--json",), 'stdin, line 2 has no "prompt". Did you mean promt?'),
        ('{"prompt": "a"}\n\n{"prompt": 3}', ("--json",), "stdin, line 3: the prompt must be a text; found int"),
        ("[1]", ("--json",), "stdin, line 1 is no JSON object"),
        ("{", ("--json",), "stdin, line 1 is no JSON ("),
        ("a", ("--max-new-tokens", 128), "Stdin, line 1 has 1 tokens, to which max_new_tokens adds 128; the model takes 128"),
        ("a", ("--top-k", 3), "Give a temperature above 0"),
        ("a", ("--prompt", "b", "--json"), "leave --file and --json out"),
        ("a", ("--file", "x.jsonl", "--json"), "--json is for stdin"),
        ("a", ("--file", "x.csv"), "x.csv has no known suffix (.txt, .jsonl)"),
        ("a", ("--file", "nowhere.jsonl"), "there is no such file"),
    ],
)
def test_bad_input(
    lmtailor: Command, decoder: Path, monkeypatch: pytest.MonkeyPatch, data: str, words: tuple[object, ...], message: str
) -> None:
    _typed(monkeypatch, data)
    outcome = lmtailor("generate", decoder, *words)
    assert outcome.code == 2
    assert message in outcome.errors[0]
    assert not outcome.out


def test_a_masked_model_is_refused(lmtailor: Command, encoder: Path) -> None:
    outcome = lmtailor("generate", encoder, *GIVEN)
    assert (outcome.code, outcome.out) == (2, "")
    assert "fills gaps, so it writes no text" in outcome.errors[0]
