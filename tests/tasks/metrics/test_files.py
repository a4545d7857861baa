"""Files of predictions and references: what is read, and what is refused with file and line."""

from pathlib import Path

import pytest

from lmtailor.core.errors import DataError, InputError
from lmtailor.tasks.metrics.text.files import Outputs, read_outputs


def read(tmp_path: Path, predictions: str, references: str | None = None, *, suffixes: str = ".txt .txt") -> Outputs:
    ends = suffixes.split()
    said, own = tmp_path / f"said{ends[0]}", tmp_path / f"own{ends[-1]}"
    said.write_bytes(predictions.encode())
    if references is None:
        return read_outputs(said)
    own.write_bytes(references.encode())
    return read_outputs(said, own)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blocks_of_references_have_a_blank_line_between(tmp_path: Path, end: str) -> None:
    outputs = read(tmp_path, end.join(["One.", "", "Three.", ""]), end.join(["a", "b", "", "c", "", "d", "e", "", ""]))
    assert outputs.predictions == ("One.", "", "Three.")
    assert outputs.references == (("a", "b"), ("c",), ("d", "e"))
    assert outputs.empty == (2,)


def test_one_reference_a_line_needs_no_blank_lines(tmp_path: Path) -> None:
    assert read(tmp_path, "x\ny\n", "a\nb\n").references == (("a",), ("b",))
    assert read(tmp_path, "x\n", "a\nb\n").references == (("a", "b"),)
    assert read(tmp_path, "x\n").references == ()


def test_records_have_predictions_references_or_both(tmp_path: Path) -> None:
    both = '{"id": 7, "prediction": "x", "references": ["a", "b"]}\n\n{"prediction": " ", "references": "c"}\n'
    outputs = read(tmp_path, both, suffixes=".jsonl")
    assert outputs == Outputs(predictions=("x", " "), references=(("a", "b"), ("c",)), lines=(1, 3))
    assert outputs.empty == (3,)
    assert read(tmp_path, "x\n", '{"references": ["a", "b"]}\n', suffixes=".txt .jsonl").references == (("a", "b"),)
    apart = read(tmp_path, '{"prediction": "x"}\n', "a\nb\n", suffixes=".jsonl .txt")
    assert (apart.predictions, apart.references) == (("x",), (("a", "b"),))
    assert read(tmp_path, '{"prediction": "x"}\n', suffixes=".jsonl").references == ()


def test_counts_that_differ(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 predictions, but .*own.txt has 3 lines without a blank .*own.txt, line 3 is the"):
        read(tmp_path, "x\ny\n", "a\nb\nc\n")
    with pytest.raises(DataError, match=r"3 predictions, but .*own.txt has 2 lines without a blank .*said.txt, line 3 is the"):
        read(tmp_path, "x\ny\nz\n", "a\nb\n")
    with pytest.raises(DataError, match=r"2 predictions, but .*own.txt has references for 1 example: .*said.txt, line 2 is the"):
        read(tmp_path, "x\ny\n", "a\n")
    with pytest.raises(DataError, match=r"1 prediction, .* for 3 examples: .*own.txt, line 4 is the first without a partner"):
        read(tmp_path, "x\n", "a\nb\n\nc\n\nd\n")


def test_an_example_without_references(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"own.txt, line 3 is blank where references are to begin"):
        read(tmp_path, "x\ny\n", "a\n\n\nb\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prediction": ', r"said.jsonl, line 2 is no JSON \("),
        ("[1]", r"line 2 is no JSON object"),
        ('{"predictions": "x"}', r'line 2 has no "prediction". Did you mean predictions'),
        ('{"prediction": 3}', r"line 2: the prediction must be a text; found 3"),
        ('{"prediction": "x"}', r'line 2 has no "references", but line 1 has'),
        ('{"prediction": "x", "references": []}', r"line 2: references must be a list of texts, none of them empty; found \[\]"),
        ('{"prediction": "x", "references": ["a", " "]}', r"none of them empty"),
        ('{"prediction": "x", "references": [1]}', r"found \[1\]"),
    ],
)
def test_bad_records(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, f'{{"prediction": "x", "references": ["a"]}}\n{line}\n', suffixes=".jsonl")


def test_references_that_come_late_or_twice(tmp_path: Path) -> None:
    late = '{"prediction": "x"}\n{"prediction": "y", "references": ["a"]}\n'
    with pytest.raises(DataError, match=r'line 1 has no "references", but line 2 has'):
        read(tmp_path, late, suffixes=".jsonl")
    with pytest.raises(DataError, match=r'said.jsonl, line 2 has "references" of its own'):
        read(tmp_path, late, "a\n\nb\n", suffixes=".jsonl .txt")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_outputs(tmp_path / "none.txt")
    with pytest.raises(InputError, match="it is a folder"):
        read_outputs(tmp_path)
    with pytest.raises(DataError, match=r"said.txt is empty"):
        read(tmp_path, "\n\n")
    (tmp_path / "latin").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 1"):
        read_outputs(tmp_path / "latin")
    assert read_outputs(tmp_path / "latin", encoding="latin-1").predictions == ("café",)
