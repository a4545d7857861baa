"""Tasks of words with a tag each: from files, from rows in memory, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtailor.core.errors import DataError, InputError
from lmtailor.tasks.card import task_from_files
from lmtailor.tasks.read import Format, read_table
from lmtailor.tasks.task import Task

NER = "-DOCSTART-\tO\n\n# a comment\nJim\tB-PER\nCarter\tI-PER\n#\tO\n\nNew York\tB-LOC\n\n\n"


def task(train: list[dict[str, object]], **options: object) -> Task:
    return Task.from_records(train=train, text="words", label="tags", kind="labelling", **options)  # type: ignore[arg-type]


def test_words_and_tags_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text(NER)
    made = task_from_files(train=path, text="text", label="tags", kind="labelling")
    assert made.labels == ("B-LOC", "B-PER", "I-PER", "O")
    assert made.metrics == ("tag_accuracy",)
    assert [(one.fields["text"], one.references, one.label) for one in made.split("train")] == [
        ("Jim Carter #", ("B-PER I-PER O",), None),
        ("New\u00a0York", ("B-LOC",), None),
    ]


@pytest.mark.parametrize("tag", ["B PER", ""])
def test_a_label_map_gives_whole_tags(tag: str) -> None:
    with pytest.raises(InputError, match=f"The label map has the tag '{tag}'"):
        task([{"words": "a b", "tags": "X Y"}], label_map={"X": tag, "Y": "O"})


def test_columns_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "eng.train"
    path.write_text("-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ  B-VP O\n\nPeter NNP B-NP B-PER")
    table = read_table(path, Format(format="conll", delimiter=" ", header=("text", "pos", "chunk", "ner")))
    assert dict(table.columns) == {
        "text": ["EU rejects", "Peter"],
        "pos": ["NNP VBZ", "NNP"],
        "chunk": ["B-NP B-VP", "B-NP"],
        "ner": ["B-ORG O", "B-PER"],
    }
    assert table.lines == [3, 6]


def test_a_no_break_space_is_part_of_a_word(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("10\u00a0000 B-X\nEU  O \n", encoding="utf-8")
    table = read_table(path, Format(delimiter=" "))
    assert dict(table.columns) == {"text": ["10\u00a0000 EU"], "tags": ["B-X O"]}


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (
            "a\tO\nb O\n",
            {},
            r"line 2 has 1 field, but there are 2 columns \(text, tags\).*set the delimiter to ' '",
        ),
        ("a\tO\n# late\n", {}, r"line 2 has 1 field"),
        ("a\tO\nb\tO\tO\n", {}, r"line 2 has 3 fields.*Set the delimiter, or name the file's columns in a header"),
        ("a\tO\n\t\n", {}, ""),
        ("a\tO\nb\t \n", {}, r"line 2 has 2 fields, 1 of them empty"),
        ("a\tO\n", {"header": ("x", "x")}, r"Every column needs a name of its own"),
        ("a\tO\n", {"delimiter": "::"}, r"A delimiter is one character"),
        ("a\tO\n", {"quoting": False}, r"conll files have no option quoting"),
        ("\n\n", {}, "is empty"),
        ("-DOCSTART-\tO\n", {}, "has no rows"),
    ],
)
def test_what_is_malformed_is_named_with_its_line(tmp_path: Path, data: str, options: dict[str, object], message: str) -> None:
    path = tmp_path / "a.conll"
    path.write_text(data)
    if not message:
        assert read_table(path).size == 1
        return
    with pytest.raises(InputError, match=message):
        read_table(path, Format(**options))  # type: ignore[arg-type]


def test_words_in_lists_and_in_texts_are_the_same() -> None:
    texts = task([{"words": "a  b\u00a0c ", "tags": "1 0"}, {"words": "d", "tags": "1"}])
    lists = task([{"words": ["a", "b c"], "tags": [1, 0]}, {"words": ["d"], "tags": ["1"]}])
    assert texts.digest == lists.digest
    assert texts.split("train").examples[0].fields == {"words": "a b\u00a0c"}
    assert texts.labels == ("0", "1")
    assert not texts.notes


def test_tags_are_declared_mapped_and_held_out() -> None:
    rows: list[dict[str, object]] = [{"words": f"a b{number}", "tags": "x y"} for number in range(8)]
    made = task(
        rows,
        labels=["Y", "X", "Z"],
        label_map={"x": "X", "y": "Y"},
        dev_fraction=0.25,
        limits={"train": 3},
        unlabelled=[{"words": "c"}],
        ood={"far": [{"words": "d e", "tags": "y y"}]},
    )
    assert made.labels == ("Y", "X", "Z")
    assert {name: len(split) for name, split in made.splits.items()} == {"train": 3, "dev": 2, "unlabelled": 1, "far": 1}
    assert made.split("far").references == (("Y Y",),)
    assert made.split("unlabelled").examples[0].references == ()
    assert made.notes == ("No example of train has the label 'Z'.",)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            {"words": "a b", "tags": "x"},
            None,
            r"train records: 1 of 2 rows have another number of tags .*row 2; the first has 2",
        ),
        ({"words": " ", "tags": "x"}, None, r"1 of 2 rows have no words, or an empty one, in column 'words' \(row 2"),
        ({"words": ["a", ""], "tags": "x y"}, None, r"1 of 2 rows have no words, or an empty one"),
        ({"words": {"a": 1}, "tags": "x"}, None, r"rows have no words"),
        (
            {"words": "a", "tags": None},
            None,
            r"1 of 2 rows have no tags, or an empty one, .*row 2; the first is None",
        ),
        ({"words": "a", "tags": "\u00a0x"}, None, r"tags in column 'tags' hold whitespace, in row 2"),
        ({"words": "\u00a0", "tags": "x"}, None, r"rows have no words, or an empty one"),
        ({"words": "a", "tags": ["x y"]}, None, r"tags in column 'tags' hold whitespace, in row 2"),
        ({"words": "a\ud800", "tags": "x"}, None, r"holds surrogates"),
        ({"words": "a", "tags": "x"}, {"words": "a b b", "tags": "x z z"}, r"has the label 'z' \(2 words\), which train lacks"),
    ],
)
def test_what_is_refused(train: dict[str, object], test: dict[str, object] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task([{"words": "a b", "tags": "x y"}, train], test=None if test is None else [test])


def test_one_tag_teaches_nothing_and_two_text_columns_are_one_too_many() -> None:
    with pytest.raises(DataError, match=r"All 1 examples of train .* have the label 'x'"):
        task([{"words": "a b", "tags": "x x"}])
    with pytest.raises(InputError, match=r"labelling has one text column"):
        Task.from_records(train=[{"a": "b", "c": "d", "label": "x"}], text=["a", "c"], kind="labelling")


def test_a_mismatch_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na b,x y\nc d e,x\n")
    with pytest.raises(
        DataError, match=r"a\.csv: 1 of 2 rows have another number of tags.*line 3; the first has 3 words and 1 tags"
    ):
        task_from_files(train=path, text="text", kind="labelling")


@given(text=st.text(st.sampled_from("ab#O \t\n\r-\u00a0\u2028"), max_size=40), delimiter=st.sampled_from(["\t", " "]))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str, delimiter: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.conll"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        table = read_table(path, Format(delimiter=delimiter))
    except DataError:
        return
    for words, tags in zip(table.column("text"), table.column("tags"), strict=True):
        assert len(str(words).split(" ")) == len(str(tags).split(" "))


TOKENS = st.one_of(
    st.none(), st.text(max_size=3), st.integers(0, 2), st.lists(st.text(max_size=2) | st.integers(0, 2), max_size=3)
)


@given(rows=st.lists(st.fixed_dictionaries({"words": TOKENS, "tags": TOKENS}), min_size=1, max_size=3))
def test_any_rows_are_a_task_or_refused(rows: list[dict[str, object]]) -> None:
    try:
        made = task(rows)
    except InputError:
        return
    for example in made.split("train"):
        assert len(example.fields["words"].split(" ")) == len(example.references[0].split(" "))
        assert set(example.references[0].split()) <= set(made.labels)
