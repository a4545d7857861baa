"""New texts from files of any format."""

import gzip
import json
from pathlib import Path

import pytest

from lmtailor.cli.texts import from_table
from lmtailor.core.errors import InputError
from lmtailor.tasks.read import Format


def test_words_of_a_packed_treebank(tmp_path: Path) -> None:
    path = tmp_path / "a.conllu.gz"
    path.write_bytes(gzip.compress(b"1\tA\ta\tDET\t_\t_\t_\t_\t_\t_\n2\tcat\tcat\tNOUN\t_\t_\t_\t_\t_\t_\n"))
    (found,) = from_table(path, ("text",), (), Format(), ())
    assert (found.id, found.fields["text"], found.fields["lemma"]) == (1, "A cat", "a cat")


def test_questions_without_their_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    asked = {"id": "q", "question": "Who?", "answers": [{"text": "A", "answer_start": 0}]}
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [{"context": "A cat.", "qas": [asked]}]}]}))
    (found,) = from_table(path, ("question", "context"), (), Format(format="squad"), ())
    assert (found.id, dict(found.fields)) == ("q", {"question": "Who?", "context": "A cat.", "title": "t"})


def test_a_suffix_that_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.dat.gz"
    path.write_bytes(gzip.compress(b"text,n\nA cat,3\n"))
    with pytest.raises(InputError, match="no known suffix"):
        list(from_table(path, ("text",), (), Format(), ()))
    (found,) = from_table(path, ("text",), (), Format(format="csv"), ())
    assert found.fields == {"text": "A cat", "n": "3"}
