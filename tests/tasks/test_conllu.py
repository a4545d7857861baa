"""CoNLL-U: words are read, other lines are not, and every departure from the standard is named with its line."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtailor.core.errors import DataError
from lmtailor.tasks.formats import text
from lmtailor.tasks.formats.conllu import UPOS, read_conllu
from lmtailor.tasks.read import read_table


def word(number: int | str, form: str = "a", upos: str = "X", head: str = "_") -> str:
    return f"{number}\t{form}\t_\t{upos}\t_\t_\t{head}\t_\t_\t_\n"


SENTENCES = (
    "# text = vámonos al mar\n"
    + word("1-2", "vámonos", "_")
    + "1\tvamos\tir\tVERB\tv\tMood=Imp\t0\troot\t0:root\t_\n"
    + "2\tnos\tnosotros\tPRON\tp\t_\t1\tobj\t_\tSpaceAfter=No\n"
    + word("2.1", "nothing", "_")
    + word("2.2", "_", "_")
    + "3\t10 000\t10 000\tNUM\tn\t_\t1\tobl\t_\t_\n\n\n"
    + word(1, "Café", "_")
)


def write(folder: Path, data: str, name: str = "a.conllu") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(data.encode()) if name.endswith(".gz") else data.encode())
    return path


@pytest.mark.parametrize("name", ["a.conllu", "a.conllu.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_words_are_read_and_other_lines_are_not(tmp_path: Path, name: str, end: str) -> None:
    table = read_table(write(tmp_path, SENTENCES.replace("\n", end), name))
    assert dict(table.columns) == {
        "text": ["vamos nos 10\u00a0000", "Café"],
        "lemma": ["ir nosotros 10\u00a0000", "_"],
        "upos": ["VERB PRON NUM", None],
        "xpos": ["v p n", None],
        "feats": ["Mood=Imp _ _", "_"],
        "head": ["0 1 1", None],
        "deprel": ["root obj obl", None],
        "deps": ["0:root _ _", "_"],
        "misc": ["_ SpaceAfter=No _", "_"],
    }
    assert table.lines == [3, 10]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("1\ta\tb\n", r"line 1 has 3 fields, but words have 10"),
        (word(1) + "2 a X\n", r"line 2 has 1 fields"),
        (word(1, " "), r"line 1 has an empty FORM"),
        (word(1) + word(3), r"line 2 is word 3, but word 2 comes next"),
        (word(1) + word(1), r"line 2 is word 1, but word 2 comes next; is a blank line missing"),
        ("\n" + word(2), r"line 2 is word 2"),
        (word("01"), r"line 1 has the ID '01'"),
        (word("one"), r"line 1 has the ID 'one'"),
        (word("9" * 5000), r"line 1 has the ID '9"),
        (
            word(1, upos="NOUNS"),
            r"line 1 has the universal part of speech 'NOUNS'\. Did you mean NOUN",
        ),
        (word(1) + word("1-2"), r"line 2 has the range 1-2, which does not begin with the next word, 2"),
        (word("1-2") + word("1-3") + word(1), r"line 2 has the range 1-3"),
        (word("1-2") + word(1), r"line 2 ends a sentence of 1 words, but a range goes on to word 2"),
        (word("2.1"), r"line 1 has the empty node 2\.1, but 0\.1 would come next"),
        (word("0.1") + word("0.3") + word(1), r"line 2 has the empty node 0\.3, but 0\.2"),
        (word(1, head="2"), r"line 1 has the head '2', but the sentence has words 1 to 1"),
        (word(1) + word(2, head="x"), r"line 2 has the head 'x'"),
        (word(1) + "# late\n", r"line 2 is a comment inside a sentence"),
        ("# alone\n\n" + word(1), r"line 1 belongs to a sentence without words"),
        (word(1) + "\n# alone", r"line 3 belongs to a sentence without words"),
        ("", r"a\.conllu is empty"),
    ],
)
def test_what_is_malformed_is_named_with_its_line(tmp_path: Path, data: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        read_conllu(write(tmp_path, data))
    assert str(tmp_path / "a.conllu") in str(raised.value)
    assert "?." not in str(raised.value)


def test_a_packed_file_that_holds_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PACKED_FREE", 1024**2)
    path = write(tmp_path, " " * 8 * 1024**2, "a.conllu.gz")
    with pytest.raises(DataError, match=r"holds more than 2 MiB.* Unpack it yourself|holds more than 1 MiB"):
        read_table(path)
    fits = write(tmp_path, SENTENCES, "b.conllu.gz")
    assert read_table(fits).size == 2


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:20] + b"\xff" * 9 + data[29:], lambda _: b"a"])
def test_a_damaged_packed_file(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write(tmp_path, SENTENCES * 20, "a.conllu.gz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"is no gzip file, or it is damaged"):
        read_table(path)


LINES = st.lists(
    st.one_of(
        st.just(""),
        st.text(max_size=8),
        st.builds(
            lambda id_, rest: "\t".join((id_, *rest)),
            st.sampled_from(["1", "2", "3", "1-2", "2-3", "0.1", "1.1", "x"]),
            st.lists(st.sampled_from(["_", "a b", "NOUN", "0", "\u00a0", "é"]), min_size=8, max_size=10),
        ),
    ),
    max_size=8,
)


@given(lines=LINES)
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.conllu"
    path.write_text("\n".join(lines), encoding="utf-8", newline="", errors="surrogatepass")
    try:
        table = read_conllu(path)
    except DataError:
        return
    for own in zip(*(cells for cells in table.columns.values()), strict=True):
        assert len({len(str(cell).split(" ")) for cell in own if cell is not None}) == 1


@pytest.mark.parametrize(
    ("file", "sentences", "words"),
    [
        ("en_ewt-ud-train.full.conllu.gz", 12544, 204577),
        ("en_ewt-ud-dev.conllu", 2001, 25147),
        ("en_ewt-ud-test.conllu", 2077, 25094),
    ],
)
def test_english_web_treebank(shared: Path, file: str, sentences: int, words: int) -> None:
    table = read_table(shared / "data" / "ud_ewt" / file)
    tags = [tag for cell in table.column("upos") for tag in str(cell).split(" ")]
    assert (table.size, len(tags)) == (sentences, words)
    assert set(tags) == set(UPOS)
    assert [len(str(cell).split(" ")) for cell in table.column("text")] == [
        len(str(cell).split(" ")) for cell in table.column("upos")
    ]
