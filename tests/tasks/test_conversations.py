"""Chat and instruction records as tasks: what is asked, what is the answer, and damage named with file and line."""

import json
from pathlib import Path
from typing import Any

import pytest

from lmtailor.core.errors import DataError
from lmtailor.tasks.conversations import conversation_task
from lmtailor.tasks.turns import Turn, turns_of, turns_text

HI = {"from": "human", "value": "hi"}
YO = {"from": "gpt", "value": "yo"}


def test_shapes_of_records_are_the_same_conversation() -> None:
    turns = [("system", "be good"), ("user", "hi"), ("assistant", "yo"), ("user", "so"), ("assistant", "no"), ("user", "?")]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": role, "content": text} for role, text in turns]},
        {"conversations": [{"from": names[role], "value": text} for role, text in turns]},
        {"conversations": [{"from": names[role], "value": text} for role, text in turns[1:]], "system": "be good"},
    ]
    for row in rows:
        example = conversation_task(train=[row]).split("train").examples[0]
        assert turns_of(example.fields["conversation"]) == tuple(Turn(role=role, content=text) for role, text in turns[:4])
        assert example.references == ("no",)


def test_instructions_have_their_input_apart() -> None:
    rows = [{"instruction": "add", "input": "1 2", "output": "3"}, {"instruction": "sing", "input": "", "output": "la"}]
    task = conversation_task(train=rows, name="alpaca")
    asked = [turns_of(example.fields["conversation"]) for example in task.split("train")]
    assert asked == [(Turn(role="user", content="add", input="1 2"),), (Turn(role="user", content="sing"),)]
    assert [example.references for example in task.split("train")] == [("3",), ("la",)]
    assert (task.kind, task.text, task.label) == ("generation", ("conversation",), "answer")


def test_text_that_is_no_list_of_turns_is_what_a_user_says() -> None:
    turns = (Turn(role="user", content="é {x}\n", input="y"), Turn(role="assistant", content="a"))
    assert turns_of(turns_text(turns)) == turns
    for text in ("hello", "[1]", '[{"role": "user"}]', '[{"role": '):
        assert turns_of(text) == (Turn(role="user", content=text),)
        assert turns_text(turns_of(text)) == text
    for single in (Turn(role="user", content=turns_text(turns)), Turn(role="user", content="a", input="b"), turns[1]):
        assert turns_of(turns_text([single])) == (single,)


@pytest.mark.parametrize("rest", ['5, "content": "a"}]', '"tool", "content": "a"}]', '"user", "content": null}]'])
def test_text_that_is_almost_a_list_of_turns_is_what_a_user_says(rest: str) -> None:
    text = '[{"role": ' + rest
    assert turns_of(text) == (Turn(role="user", content=text),)


def test_examples_know_file_and_line_wherever_they_go(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    rows = [{"conversations": [{"from": "human", "value": f"q{i}"}, YO]} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = conversation_task(train=path, dev_fraction=0.5)
    places = {example.fields["conversation"]: example.place for split in task.splits.values() for example in split}
    assert places == {turns_text([Turn(role="user", content=f"q{i}")]): f"{path}, line {i + 1}" for i in range(4)}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"conversations": [HI, {"from": "gbt", "value": "yo"}]}, r"line 2, turn 2 has the unknown role 'gbt'.*gpt"),
        (
            {"conversations": [HI, {"from": None, "value": "yo"}]},
            r"line 2, turn 2 has the unknown role None\. Known: system, user, a",
        ),
        ({"conversations": [HI]}, "line 2: no turn is the assistant's"),
        ({"conversations": [YO, HI]}, "line 2: the assistant speaks before any user"),
        ({"conversations": [HI, YO, {"from": "system", "value": "x"}]}, "line 2: the system speaks in turn 3"),
        ({"conversations": [{"from": "system", "value": "x"}, HI, YO], "system": "y"}, "line 2: both the column system"),
        ({"conversations": [HI, {"from": "gpt", "value": " "}]}, "line 2, turn 2: value is empty"),
        ({"conversations": [HI, {"from": "gpt", "value": 3}]}, "line 2, turn 2: value is 3, not text"),
        ({"conversations": [HI, {"role": "gpt", "value": "x"}]}, "line 2, turn 2 must have role and content"),
        ({"conversations": [HI, "yo"]}, "line 2, turn 2 must have"),
        ({"conversations": "hi"}, "line 2: conversations must be a list of turns"),
        ({"conversations": []}, "line 2: conversations must be a list of turns"),
        ({"conversations": [HI, {"from": "gpt", "value": "\ud800"}]}, "line 2, turn 2: value holds surrogates"),
        ({"prompt": "hi"}, "line 2: the columns are conversations, prompt"),
    ],
)
def test_records_that_are_no_conversations_are_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"conversations": [HI, YO]}) + "\n" + json.dumps(row), encoding="utf-8")
    with pytest.raises(DataError, match=said):
        conversation_task(train=path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "add", "output": ""}, "line 1: output is empty"),
        ({"instruction": 1, "output": "x"}, "instruction is 1, not"),
    ],
)
def test_instructions_without_texts_are_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(DataError, match=said):
        conversation_task(train=path)
