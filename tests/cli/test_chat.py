"""Conversations from the command line: fitted by their usual readout, and asked as text."""

import json
import shlex
from pathlib import Path

from tests.cli.inputs import Command

CARD = 'kind = "generation"\nchat = true\n[files]\ntrain = "chats.json"\n'


def test_a_card_of_conversations_is_fitted_and_answers(lmtailor: Command, decoder: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"say {word}", "output": word} for word in ("yes", "no", "maybe", "good")]
    (tmp_path / "chats.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "card.toml").write_text(CARD, encoding="utf-8")
    words = (
        "--method",
        "bitfit",
        "--set",
        "add_missing=true",
        "--set",
        "form=plain",
        "--set",
        "readout.max_length=100",
        "--set",
        "system=.",
    )
    done = lmtailor("fit", decoder, "--task", tmp_path / "card.toml", *words, "--epochs", 1, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "BitFit · Chat" in done.err
    following = shlex.split(done.out.splitlines()[-1])
    assert following[4] == "say yes"
    asked = lmtailor(*following[1:], "--max-new-tokens", 4)
    assert asked.code == 0, (following, asked.err)
    answer = json.loads(asked.out)
    assert set(answer) >= {"id", "text"}


def test_a_record_without_room_for_an_answer_is_named_with_its_line(lmtailor: Command, decoder: Path, tmp_path: Path) -> None:
    rows = [{"instruction": "yes", "output": "no"}, {"instruction": "a cat and a dog " * 20, "output": "no"}]
    (tmp_path / "chats.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (tmp_path / "card.toml").write_text(CARD, encoding="utf-8")
    words = ("--method", "bitfit", "--set", "add_missing=true", "--set", "system=.")
    done = lmtailor("fit", decoder, "--task", tmp_path / "card.toml", *words, "--out", tmp_path / "out")
    assert done.code == 2
    assert "chats.json, line 6: the conversation has" in done.err
