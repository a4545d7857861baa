"""SQuAD's files, and tasks whose answers are parts of a text."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtailor.core.errors import DataError
from lmtailor.tasks.card import task_from_files
from lmtailor.tasks.formats.squad import read_squad
from lmtailor.tasks.read import Format, read_table
from lmtailor.tasks.task import Task

CONTEXT = "Café Müller stands in the Rue 5."
HELD: dict[str, Any] = {
    "version": "1.1",
    "data": [
        {
            "title": "Cafés",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Where?",
                            "answers": [
                                {"text": "the Rue 5", "answer_start": 22},
                                {"text": "in the Rue 5", "answer_start": 19},
                            ],
                        },
                        {"id": "q2", "question": "Which one?", "answers": [{"text": "Müller", "answer_start": 5}]},
                    ],
                },
                {"context": "Nothing.", "qas": []},
            ],
        }
    ],
}


def write(folder: Path, held: object) -> Path:
    path = folder / "a.json"
    path.write_text(json.dumps(held))
    return path


def from_file(path: Path) -> Task:
    return task_from_files(train=path, text=["question", "context"], label="answers", kind="span", form=Format(format="squad"))


def test_a_file(tmp_path: Path) -> None:
    task = from_file(write(tmp_path, HELD))
    assert (task.labels, task.metrics) == ((), ("answer_f1", "exact_match"))
    one, other = task.split("train")
    assert one.fields == {"question": "Where?", "context": CONTEXT}
    assert (one.references, one.starts) == (("the Rue 5", "in the Rue 5"), (22, 19))
    assert (other.references, other.starts) == (("Müller",), (5,))
    assert dict(read_squad(tmp_path / "a.json").columns)["title"] == ["Cafés", "Cafés"]


def test_rows_of_both_shapes_are_the_same() -> None:
    def made(answers: object) -> Task:
        rows = [{"context": CONTEXT, "answers": answers}]
        return Task.from_records(train=rows, text="context", label="answers", kind="span", unlabelled=[{"context": "c"}])

    listed = made([{"text": "Müller", "answer_start": 5}, {"text": "5", "answer_start": 30}])
    parallel = made({"text": ["Müller", "5"], "answer_start": [5, 30]})
    assert listed.digest == parallel.digest
    assert listed.split("unlabelled").examples[0].starts == ()


def test_answers_are_texts_to_be_written_where_the_task_is_generation() -> None:
    rows: list[dict[str, object]] = [
        {"q": "a", "answers": [{"text": "Müller", "answer_start": 5}]},
        {"q": "b", "answers": {"text": ["5"], "answer_start": [3]}},
    ]
    task = Task.from_records(train=rows, text="q", label="answers", kind="generation")
    assert [(one.references, one.starts) for one in task.split("train")] == [(("Müller",), ()), (("5",), ())]
    with pytest.raises(DataError, match="1 of 1 rows have no text to be written"):
        Task.from_records(train=[{"q": "a", "answers": [{"text": "Müller"}]}], text="q", label="answers", kind="generation")


Change = Callable[[dict[str, Any]], Any]


def _first(held: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = held["data"][0]["paragraphs"][0]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.pop("data"), r'a\.json is no SQuAD: it must be an object with a list "data"'),
        (lambda held: held["data"].append(3), r'article 2 has no list "paragraphs"'),
        (lambda held: held["data"][0].pop("paragraphs"), r'article 1 \(Cafés\) has no list "paragraphs"'),
        (lambda held: _first(held).pop("qas"), r'article 1 \(Cafés\), paragraph 1 has no list "qas"'),
        (lambda held: _first(held).update(context=" "), r'paragraph 1 has no text "context"'),
        (lambda held: _first(held)["qas"][1].pop("question"), r'the question q2 has no text "question"'),
        (lambda held: _first(held)["qas"].append(None), r'paragraph 1, question 3 has no text "question"'),
        (
            lambda held: _first(held)["qas"][0].update(is_impossible=True),
            r"q1 has no answer in its text, as SQuAD 2",
        ),
        (lambda held: _first(held)["qas"][0].update(answers=3), r'the question q1 has no list "answers"'),
        (lambda held: _first(held)["qas"][0].update(answers=[]), r"row 1 \(the question q1\) has no answers"),
        (lambda held: _first(held)["qas"][0]["answers"][0].pop("text"), r'an answer of the question q1 has no text "text"'),
        (lambda held: _first(held)["qas"][0]["answers"][0].update(answer_start="22"), r"q1 has the \"answer_start\" '22'"),
        (
            lambda held: _first(held)["qas"][1]["answers"][0].update(answer_start=4),
            r"row 2 \(the question q2\) has the answer 'Müller' at character 4, where its text has ' Mülle'",
        ),
        (lambda held: _first(held)["qas"][1]["answers"][0].update(answer_start=-1), r"at character -1"),
        (lambda held: _first(held)["qas"][1]["answers"][0].update(answer_start=10**30), r"where its text has ''"),
        (lambda held: held.update(data=[]), r"a\.json has no rows"),
    ],
)
def test_what_is_no_squad_is_named_with_its_place(tmp_path: Path, change: Change, message: str) -> None:
    held = copy.deepcopy(HELD)
    change(held)
    with pytest.raises(DataError, match=message) as raised:
        from_file(write(tmp_path, held))
    assert str(tmp_path / "a.json") in str(raised.value)


def test_no_json_and_no_format(tmp_path: Path) -> None:
    path = write(tmp_path, HELD)
    with pytest.raises(DataError, match=r'SQuAD\'s own files have format = "squad"'):
        read_table(path)
    path.write_text('{"data": [\n1,, 2]}')
    with pytest.raises(DataError, match=r"line 2 is no JSON"):
        read_squad(path)
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"is no JSON that can be read"):
        read_squad(path)


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3))
KEYS = st.sampled_from(["data", "paragraphs", "context", "qas", "question", "answers", "text", "answer_start", "id"])
ANY = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)


@given(held=st.one_of(ANY, st.builds(lambda one: {"data": [{"paragraphs": [one]}]}, ANY)))
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, held: object) -> None:
    path = write(tmp_path_factory.getbasetemp(), held)
    try:
        table = read_squad(path)
    except DataError:
        return
    assert all(isinstance(cell, str) and cell.strip() for cell in table.column("context"))


@pytest.mark.parametrize(
    ("file", "questions"), [("official_dev_half_A.json", 4961), ("du_split_test_from_official_train.json", 11877)]
)
def test_squad_11(shared: Path, file: str, questions: int) -> None:
    task = from_file(shared / "data" / "squad11" / file)
    assert len(task.split("train")) == questions
    assert all(len(example.starts) == len(example.references) > 0 for example in task.split("train"))
