"""Readers of data files: every format gives the same table, and every kind of damage gets its own message."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtailor.core.errors import DataError, InputError
from lmtailor.tasks.formats import text
from lmtailor.tasks.formats.hub import read_dataset
from lmtailor.tasks.read import Format, read_table

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(data: str | bytes, name: str = "a.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return write_file


def read(path: Path, **options: object) -> dict[str, list[object]]:
    table = read_table(path, Format(**options))  # type: ignore[arg-type]
    return {name: list(cells) for name, cells in table.columns.items()}


def test_csv(write: Write) -> None:
    path = write('\ufeffs,label\r\n"a ""b"", c",x\r\n\r\n"two\nlines",y\r\nlast,z')
    assert read(path) == {"s": ['a "b", c', "two\nlines", "last"], "label": ["x", "y", "z"]}
    assert read_table(path).lines == [2, 4, 6]


def test_tsv_and_its_options(write: Write) -> None:
    assert read(write('s\tlabel\n"a"\tx\n', "a.tsv")) == {"s": ["a"], "label": ["x"]}
    assert read(write('s\tlabel\n"a\tx\n', "a.tsv"), quoting=False) == {"s": ['"a'], "label": ["x"]}
    assert read(write("s;label\na,b;x\n"), delimiter=";") == {"s": ["a,b"], "label": ["x"]}
    assert read(write("a\tx\n", "a.txt"), format="tsv", header=("s", "label")) == {"s": ["a"], "label": ["x"]}


def test_surplus_fields(write: Write) -> None:
    path = write("a\tx\tmore\tyet more\nb\ty\n", "a.tsv")
    assert read(path, header=("s", "label"), surplus=True) == {"s": ["a", "b"], "label": ["x", "y"]}
    with pytest.raises(DataError, match="line 2 has 2 fields, but there are 3 columns"):
        read(path, header=("s", "label", "z"), surplus=True)
    with pytest.raises(InputError, match="jsonl files have no option surplus"):
        read(write("{}", "a.jsonl"), surplus=True)


def test_lines_and_files_beside(write: Write) -> None:
    path = write("a, b\r\nc\n", "train.source")
    write("x\ny", "train.target")
    write("1\n0\n", "labels.source")
    form = {"format": "lines", "beside": {"said": ".target", "label": "labels"}}
    assert read(path, **form) == {"text": ["a, b", "c"], "said": ["x", "y"], "label": ["1", "0"]}
    write("x\ny\n\n", "train.target")
    with pytest.raises(DataError, match=r"train\.source has 2 lines, but .*train\.target has 3"):
        read(path, **form)
    with pytest.raises(InputError, match=r"'text' is the column of train\.source itself"):
        read(path, format="lines", beside={"text": ".target"})
    with pytest.raises(InputError, match=r"Cannot read .*train\.nothing"):
        read(path, format="lines", beside={"said": ".nothing"})
    with pytest.raises(InputError, match="csv files have no option beside"):
        read(write("a\n1"), beside={"said": ".target"})


def test_jsonl(write: Write) -> None:
    path = write('{"s": "a\u2028b", "n": 1}\n\n{"s": null, "m": [1]}\r\n', "a.JSONL")
    assert read(path) == {"s": ["a\u2028b", None], "n": [1, None], "m": [None, [1]]}
    assert read_table(path).lines == [1, 3]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    labels = pyarrow.array(["x", "y", "x"]).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table({"s": ["a", "b", None], "label": labels}), path)
    assert read(path) == {"s": ["a", "b", None], "label": ["x", "y", "x"]}
    assert read_table(path).where([0, 2]) == "rows 1, 3"


def test_encodings(write: Write) -> None:
    data = "s,label\ncafé,x\n"
    assert read(write(data.encode("latin-1")), encoding="latin-1")["s"] == ["café"]
    assert read(write(data.encode("utf-16")), encoding="utf-16")["s"] == ["café"]
    assert read(write(data.encode("utf-8-sig")))["s"] == ["café"]
    assert read(write('{"s": "café"}'.encode("cp1252"), "a.jsonl"), encoding="cp1252")["s"] == ["café"]


@pytest.mark.parametrize(
    ("data", "name", "options", "message"),
    [
        ("", "a.csv", {}, r"a\.csv is empty"),
        (" \n\n", "a.tsv", {}, r"a\.tsv is empty"),
        ("\n", "a.jsonl", {}, r"a\.jsonl is empty"),
        ("s,label\n", "a.csv", {}, r"a\.csv has no rows"),
        (
            b"s,label\nab\xe9,x\n",
            "a.csv",
            {},
            r'is not utf-8: byte 0xe9 at offset 10 \(line 2\)\. If the file is latin-1, set encoding = "latin-1"',
        ),
        (
            "s\n".encode("utf-16"),
            "a.csv",
            {},
            r'byte 0xff at offset 0 \(line 1\)\. If the file is utf-16, set encoding = "utf-16"',
        ),
        (b'{"s": "\xe9"}', "a.jsonl", {}, "is not utf-8: byte 0xe9 at offset 7"),
        ("s\n", "a.csv", {"encoding": "utf8x"}, "There is no encoding 'utf8x'"),
        (
            "s,label\na,x\nb\nc,y,z\n",
            "a.csv",
            {},
            r"line 3 has 1 fields, but there are 2 columns \(s, label\)\. 1 more rows are ragged",
        ),
        ('s,label\n"a\nb",x\nc,y,z\n', "a.csv", {}, "line 4 has 3 fields"),
        (
            's,label\na,x\n"b,y\n',
            "a.csv",
            {},
            r"row that begins on line 3 cannot be read \(unexpected end of data\)\. If quotes are plain",
        ),
        ('s,label\n"a"b,x\n', "a.csv", {}, "row that begins on line 2 cannot be read"),
        ("s,label\n" + "a" * 200_000 + ",x\n", "a.csv", {"quoting": False}, "field larger than field limit.*JSONL"),
        ("s,label,s\na,x,b\n", "a.csv", {}, "the header has 's' 2 times"),
        ("s,label\na,x\n", "a.csv", {"delimiter": ";;"}, "A delimiter is one character"),
        ('{"s": "a"}\n{"s": \n', "a.jsonl", {}, r"line 2 is no JSON \(Expecting value, column 7\)"),
        ('{"s": "a"}\n["b"]\n', "a.jsonl", {}, r"a\.jsonl: line 2 is list, not a mapping"),
        ("[" * 100_000, "a.jsonl", {}, "line 1 is no JSON"),
        ('{"s": ' + "1" * 5000 + "}", "a.jsonl", {}, "line 1 is no JSON that can be read"),
        ("PAR1 no", "a.parquet", {}, "is no Parquet file, or it is damaged"),
        ("s\n", "a.txt", {}, r"a\.txt has no known suffix \(\.csv"),
        ('{"s": 1}', "a.jsonl", {"delimiter": ","}, "jsonl files have no option delimiter"),
        ('{"s": 1}', "a.jsonl", {"quoting": False}, "jsonl files have no option quoting"),
        ("", "a.parquet", {"encoding": "latin-1"}, "parquet files have no option encoding"),
    ],
)
def test_damage(write: Write, data: str | bytes, name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write(data, name), **options)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.csv: there is no such file"):
        read_table(tmp_path / "no.csv")
    with pytest.raises(InputError, match="it is a folder"):
        read_table(tmp_path)


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"s": [f"text {i}" for i in range(1000)]}), path, compression="gzip")
    data = path.read_bytes()
    path.write_bytes(data[:20] + bytes(200) + data[220:])
    with pytest.raises(InputError, match=r"a\.parquet"):
        read_table(path)
    path.write_bytes(data[:-10])
    with pytest.raises(DataError, match="is no Parquet file"):
        read_table(path)


def test_parquet_with_a_name_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["s", "s"]), path)
    with pytest.raises(DataError, match="'s' stands there twice"):
        read_table(path)


def test_too_large(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_BYTES", 5)
    with pytest.raises(DataError, match="Use Parquet, or split it"):
        read(write("s,label\na,x\n"))


def test_a_wrong_delimiter_is_suggested(write: Write) -> None:
    with pytest.raises(DataError, match=r"has no column 's'.*is that the delimiter\? Set delimiter = ';'"):
        read_table(write("s;label\na;x\n")).column("s")


def test_dataset_saved_to_disk(tmp_path: Path) -> None:
    features = datasets.Features(
        s=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"]), x=[datasets.Value("int64")]
    )
    data = datasets.Dataset.from_dict({"s": ["a", "b", "c"], "label": [1, 0, -1], "x": [[1], [2], [3]]}, features=features)
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=data.select([2, 0]), test=data).save_to_disk(tmp_path / "many")
    table = read_dataset(tmp_path / "many", split="train")
    assert {name: list(cells) for name, cells in table.columns.items()} == {
        "s": ["c", "a"],
        "label": [None, "yes"],
        "x": [[3], [1]],
    }
    with pytest.raises(DataError, match=r"no such split\. Did you mean train"):
        read_dataset(tmp_path / "many", split="tran")
    with pytest.raises(DataError, match=r"'train'.*the folder holds one split, None"):
        read_dataset(tmp_path / "one", split="train")


def test_dataset_folder_of_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.csv").write_text("s,label\na,x\nb,y\n")
    table = read_dataset(folder, split="train")
    assert list(table.columns["s"]) == ["a", "b"]
    with pytest.raises(DataError, match="Cannot load the split 'dev'"):
        read_dataset(folder, split="dev")


def test_dataset_that_is_not_there() -> None:
    with pytest.raises(DataError, match=r"Cannot load the split 'train' of the data set nobody/nothing \(small\)"):
        read_dataset("nobody/nothing", split="train", name="small")


plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


@given(st.lists(st.tuples(plain, plain), min_size=1))
def test_csv_and_jsonl_give_back_any_text(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("any")
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([("s", "t"), *rows])
    (folder / "a.csv").write_bytes(buffer.getvalue().encode())
    (folder / "a.jsonl").write_text("".join(json.dumps({"s": s, "t": t}) + "\n" for s, t in rows), encoding="utf-8")
    expected = {"s": [s for s, _ in rows], "t": [t for _, t in rows]}
    assert read(folder / "a.csv") == expected
    assert read(folder / "a.jsonl") == expected


def test_lists_and_mappings_of_a_data_set(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
            "answers": {"text": datasets.List(datasets.Value("string")), "answer_start": datasets.List(datasets.Value("int32"))},
            "image": datasets.Array2D((1, 1), "int8"),
        }
    )
    row = {"tokens": ["Jim", "ran"], "tags": [1, -1], "answers": {"text": ["a"], "answer_start": [3]}, "image": [[1]]}
    datasets.Dataset.from_list([row, {**row, "tags": None}], features=features, split="train").save_to_disk(tmp_path / "saved")
    table = read_dataset(tmp_path / "saved", split="train")
    assert dict(table.columns) == {
        "tokens": [["Jim", "ran"]] * 2,
        "tags": [["B-PER", None], None],
        "answers": [{"text": ["a"], "answer_start": [3]}] * 2,
    }
