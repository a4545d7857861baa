"""JSON files: records in a list or under keys, the line on which each begins, and damage."""

from pathlib import Path

import pytest

from lmtailor.core.errors import DataError
from lmtailor.tasks.formats.json_list import read_json


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text", ['[{"s": "a]"},\n\n {"s":\n "b", "t": [1]}]\n', '{"0": {"s": "a]"},\n\n "1": {"s":\n "b", "t": [1]}}']
)
def test_records_of_a_list_or_under_keys_know_their_lines(tmp_path: Path, text: str) -> None:
    table = read_json(write(tmp_path, text))
    assert table.columns == {"s": ["a]", "b"], "t": [None, [1]]}
    assert table.lines == [1, 3]


def test_rows_are_told_where_several_records_stand_on_a_line(tmp_path: Path) -> None:
    table = read_json(write(tmp_path, '[{"s": "a"}, {"s": "b"}]'))
    assert (table.lines, table.place(1)) == (None, f"{tmp_path / 'a.json'}, row 2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"s": 1}\n{"s": 2}', "line 2 is no JSON .Extra data"),
        ('[{"s": 1},\n {"s": 2', "line 2 is no JSON"),
        ('[{"s": 1}\n {"s": 2}]', "line 2 is no JSON .Expecting ','"),
        ('[{"s": 1},\n"b"]', "line 2 is str, not a mapping"),
        ('"a"', "no list of records"),
        ("[]", "has no rows"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_json(write(tmp_path, text))
