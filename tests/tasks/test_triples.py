"""Triples to be put into words, and records inside records: what is read, and what is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtailor.core.errors import DataError, InputError
from lmtailor.tasks.card import task_from_files
from lmtailor.tasks.formats import nested
from lmtailor.tasks.formats.triples import linearised
from lmtailor.tasks.read import Format, read_table

XML = """<?xml version="1.0" encoding="UTF-8"?>
<benchmark><entries>
<entry category="Food" eid="Id1" size="2">
 <originaltripleset><otriple>x | y | z</otriple></originaltripleset>
 <modifiedtripleset><mtriple>Soup | madeOf | Wein &amp; Brot</mtriple><mtriple>Soup | country | "É"</mtriple></modifiedtripleset>
 <lex comment="good" lid="Id1"> Soup, of bread. </lex><lex comment="toFix" lid="Id2">soup</lex><lex lid="Id3">A soup.</lex>
</entry>
<entry category="City" eid="Id2" size="1">
 <modifiedtripleset><mtriple>A | b | c</mtriple></modifiedtripleset><lex comment="toFix">bad</lex>
</entry>
</entries></benchmark>
"""


def test_triples_in_one_line() -> None:
    assert (
        linearised([("A_b", "leaderName", "C"), ("A_b", "Area", "5.0")], lower=True) == "A_b : leadername : C | A_b : area : 5.0"
    )


def test_webnlg(tmp_path: Path) -> None:
    (tmp_path / "1triples").mkdir()
    (tmp_path / "1triples" / "b.xml").write_text(XML, encoding="utf-8")
    (tmp_path / "a.xml").write_text(XML.replace("Soup", "Bread"), encoding="utf-8")
    table = read_table(tmp_path, Format(format="webnlg"))
    assert {name: cells[0] for name, cells in table.columns.items()} == {
        "triples": 'Soup : madeOf : Wein & Brot | Soup : country : "É"',
        "text": ["Soup, of bread.", "A soup."],
        "category": "Food",
        "size": 2,
        "id": "b/Id1",
    }
    task = task_from_files(train=tmp_path / "a.xml", text="triples", label="text", kind="generation")
    assert task.split("train").references == (("Bread, of bread.", "A soup."),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("</entry>", ""), r"a\.xml: line \d+ is no XML"),
        (("<benchmark>", '<!DOCTYPE x [<!ENTITY a "b">]><benchmark>'), r"a\.xml declares a document type"),
        (("<mtriple>A | b | c</mtriple>", ""), r"a\.xml: the entry Id2 has no triples"),
        (("A | b | c", "A | b"), r"the entry Id2 has the triple 'A \| b'"),
        (("A | b | c", "A |  | c"), r"the entry Id2 has the triple"),
        ((">A soup.<", "><"), r"the entry Id1 has an empty text"),
        (("entry", "item"), r"has no rows"),
    ],
)
def test_what_is_no_webnlg(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "a.xml"
    assert change[0] in XML
    path.write_text(XML.replace(*change), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_table(path)


def test_folders_are_for_webnlg_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no XML files"):
        read_table(tmp_path, Format(format="webnlg"))
    with pytest.raises(InputError, match="it is a folder"):
        read_table(tmp_path, Format(format="json"))


DART = [
    {
        "tripleset": [["A", "LEADER", "B"], ["A", "Area", "5"]],
        "subtree_was_extended": False,
        "annotations": [{"source": "WikiSQL", "text": "B leads A."}, {"source": "x", "text": "A has 5."}],
    }
]


def test_dart(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(DART))
    table = read_table(tmp_path / "a.json", Format(format="dart"))
    assert dict(table.columns) == {
        "triples": ["A : leader : B | A : area : 5"],
        "text": [["B leads A.", "A has 5."]],
        "source": ["WikiSQL"],
        "size": [2],
    }


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"a": 1}, "is no DART"),
        ([1], "set 1 has no triples"),
        ([*DART, {"tripleset": [], "annotations": []}], "set 2 has no triples"),
        ([{**DART[0], "tripleset": [["a", "b"]]}], r"set 1 has the triple \['a', 'b'\]"),
        ([{**DART[0], "annotations": [{"source": "x"}]}], 'set 1 has an annotation without a "text"'),
        ([], "has no rows"),
    ],
)
def test_what_is_no_dart(tmp_path: Path, held: object, message: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(held))
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "a.json", Format(format="dart"))


def test_records_inside_records_are_flat(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "t", "target": {"span": "s", "at": [1, 2]}}\n\n'
        '{"text": "u", "asked": [{"q": "a", "said": [{"label": 1}, {"label": 0}]}, {"q": "b", "said": []}]}\n'
    )
    table = read_table(tmp_path / "a.jsonl", Format(format="nested"))
    assert dict(table.columns) == {
        "text": ["t", "u", "u", "u"],
        "target_span": ["s", None, None, None],
        "target_at": [[1, 2], None, None, None],
        "asked_q": [None, "a", "a", "b"],
        "asked_said_label": [None, 1, 0, None],
        "asked_said": [None, None, None, []],
    }
    assert table.lines == [1, 3, 3, 3]


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a_b": 1, "a": {"b": 2}}\n')
    with pytest.raises(DataError, match=r"a\.jsonl: line 2 has two columns that would be named 'a_b'"):
        read_table(tmp_path / "a.jsonl", Format(format="nested"))


def test_lists_that_multiply_are_refused_before_their_rows_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = {f"list{number}": [{"a": 1}] * 100 for number in range(12)}  # 10^24 rows, which nobody waits for
    (tmp_path / "a.jsonl").write_text(json.dumps({"a": 1}) + "\n" + json.dumps(lists))
    with pytest.raises(DataError, match=r"a\.jsonl becomes more than 10000000 rows \(line 2\)"):
        read_table(tmp_path / "a.jsonl", Format(format="nested"))
    monkeypatch.setattr(nested, "MAX_ROWS", 1000)
    halves = {"outer": [{"one": [{"b": 1}] * 30, "other": [{"c": 1}] * 30}] * 2}
    (tmp_path / "b.jsonl").write_text(json.dumps(halves))
    with pytest.raises(DataError, match=r"b\.jsonl becomes more than 1000 rows \(line 1\)"):
        read_table(tmp_path / "b.jsonl", Format(format="nested"))


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3))
KEYS = st.sampled_from(["tripleset", "annotations", "text", "a", "a_b", "b"])
ANY = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)


@given(held=ANY)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, held: object) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(held))
    for name in ("dart", "nested"):
        try:
            table = read_table(path, Format(format=name))
        except DataError:
            continue
        assert table.size


@given(text=st.text(st.sampled_from('<>/="! &|abelmnrtxy?;'), max_size=60))
def test_any_xml_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.xml"
    path.write_text(f"<benchmark>{text}</benchmark>", encoding="utf-8")
    with pytest.raises(DataError):
        read_table(path)
