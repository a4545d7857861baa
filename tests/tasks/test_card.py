"""Task cards: what they say is done, and what they say wrongly is named."""

import json
from pathlib import Path

import datasets
import pytest

from lmtailor.core.errors import DataError, InputError
from lmtailor.tasks.card import load_task, task_from_files
from lmtailor.tasks.read import Format
from lmtailor.tasks.task import Task

TRAIN = "s,label\ngood,1\nbad,0\nfine,1\n"
CARD = """
kind = "classification"
metrics = ["matthews"]
labels = ["negative", "positive"]
[files]
train = "train.csv"
test = "data/test.csv"
[columns]
text = "s"
[label_map]
0 = "negative"
1 = "positive"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "train.csv").write_text(TRAIN)
    (tmp_path / "data" / "test.csv").write_text("s,label\nawful,0\n")
    return tmp_path


def load(folder: Path, card: str, **options: list[str]) -> Task:
    (folder / "films.toml").write_text(card)
    return load_task(folder / "films.toml", **options)


def test_a_card(folder: Path) -> None:
    task = load(folder, CARD)
    assert (task.name, task.kind, task.metrics, task.labels) == (
        "films",
        "classification",
        ("matthews",),
        ("negative", "positive"),
    )
    assert task.split("train").labels == (1, 0, 1)
    assert [example.place for example in task.split("train")] == [f"{folder / 'train.csv'}, line {line}" for line in (2, 3, 4)]
    assert task.split("test").examples[0].fields == {"s": "awful"}
    assert task.split("train").source == str(folder / "train.csv")


def test_a_card_equals_its_records(folder: Path) -> None:
    train = [{"s": "good", "label": 1}, {"s": "bad", "label": 0}, {"s": "fine", "label": 1}]
    records = Task.from_records(
        train=train,
        test=[{"s": "awful", "label": 0}],
        text="s",
        label_map={"0": "negative", "1": "positive"},
        labels=["negative", "positive"],
    )
    assert load(folder, CARD).digest == records.digest


def test_everything_a_card_can_say(folder: Path) -> None:
    (folder / "t.tsv").write_bytes(
        "premise\thypothesis\ty\ttopic\ncaf\xe9\tb\t1\tz\nc\td\t2\t\ne\tf\t2\tz\ng\th\t1\tz\n".encode("latin-1")
    )
    (folder / "u.tsv").write_text("premise\thypothesis\ttopic\nu\tv\tw\n")
    (folder / "o.jsonl").write_text(
        '{"a": "x", "b": "y", "gold": "yes", "topic": "q"}\n{"a": "r", "b": "s", "gold": "no", "topic": "q"}\n'
    )
    task = load(
        folder,
        """
name = "nli"
seed = 3
dev_fraction = 0.5
[files]
train = "t.tsv"
unlabelled = "u.tsv"
[format]
encoding = "latin-1"
[columns]
text = ["premise", "hypothesis"]
label = "y"
extra = ["topic"]
[limits]
other = 1
[ood.other]
file = "o.jsonl"
text = ["a", "b"]
label = "gold"
label_map = { yes = "1", no = "2" }
format = { encoding = "utf-8" }
[[patterns]]
text = "{premise}? {mask}, {hypothesis}"
[[patterns]]
text = "{topic}: {mask}"
[verbalizer]
1 = ["Yes"]
2 = ["No", "Maybe"]
""",
    )
    assert (task.name, task.ood, task.columns) == ("nli", ("other",), ("premise", "hypothesis", "topic"))
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 2, "dev": 2, "unlabelled": 1, "other": 1}
    assert {example.fields["premise"] for name in ("train", "dev") for example in task.split(name)} == {"café", "c", "e", "g"}
    other = task.split("other").examples[0]
    assert (other.fields, other.label) in (
        ({"premise": "x", "hypothesis": "y", "topic": "q"}, 0),
        ({"premise": "r", "hypothesis": "s", "topic": "q"}, 1),
    )
    assert task.patterns == ("{premise}? {mask}, {hypothesis}", "{topic}: {mask}")
    assert task.verbalizer == {"1": ("Yes",), "2": ("No", "Maybe")}


def test_regression_card(folder: Path) -> None:
    task = load(folder, 'kind = "regression"\n[files]\ntrain = "train.csv"\n[columns]\ntext = "s"')
    assert task.split("train").labels == (1.0, 0.0, 1.0)
    assert task.metrics == ("pearson", "spearman")


def test_a_card_keeps_some_of_the_references(folder: Path) -> None:
    rows = [{"s": text, "r": f"{text}{number}"} for text in "ab" for number in range(3)]
    (folder / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = 'kind = "generation"\nfiles = { train = "r.jsonl", test = "r.jsonl" }\ncolumns = { text = "s", label = "r" }\n'
    task = load(folder, card + "references = { train = 2 }")
    assert [one.references for one in task.split("train")] == [("a0", "a1"), ("b0", "b1")]
    assert [len(one.references) for one in task.split("test")] == [3, 3]
    for wrong, message in (
        ("dev = 1", "the split 'dev', which is not there"),
        ("train = 0", "references of train must be at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            load(folder, card + f"references = {{ {wrong} }}")
    with pytest.raises(InputError, match="`references` counts texts to be written"):
        load(folder, CARD, overrides=["references.train=1"])


def test_overrides_change_a_card(folder: Path) -> None:
    task = load(folder, CARD, overrides=["limits.train=2", "name=other", "metrics=accuracy,macro_f1"])
    assert (task.name, len(task.split("train")), task.metrics) == ("other", 2, ("accuracy", "macro_f1"))
    with pytest.raises(InputError, match=r"no setting limit\.train"):
        load(folder, CARD, overrides=["limit.train=2"])


def test_a_card_of_a_dataset(folder: Path) -> None:
    data = datasets.Dataset.from_dict({"s": ["a", "b"], "label": ["x", "y"]})
    datasets.DatasetDict(train=data, validation=data.select([1])).save_to_disk(folder / "saved")
    card = '[dataset]\npath = "saved"\n[splits]\ntrain = "train"\ndev = "validation"\n[columns]\ntext = "s"\n'
    task = load(folder, card + '[ood.again]\nsplit = "validation"\ndataset = { path = "saved" }')
    assert task.split("dev").labels == task.split("again").labels == (1,)
    assert task.split("train").source.endswith("saved [train]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[columns]", "[colums]"), r"colums in .*films\.toml is not a setting of Card\. Did you mean columns"),
        (('text = "s"', 'txt = "s"'), r"columns\.txt in .* is not a setting of Columns\. Did you mean text"),
        (('text = "s"', "text = 3"), r"columns\.text in .* must be text or a list; found 3"),
        (('kind = "classification"', 'kind = "clasification"'), "Did you mean classification"),
        (('kind = "classification"', 'kind = "pair"'), "with two text columns; there is no kind"),
        (('"train.csv"', '"trian.csv"'), r"Cannot read .*trian\.csv: there is no such file"),
        (('text = "s"', 'text = "S"'), r"train\.csv has no column 'S'\. Did you mean s"),
        (('metrics = ["matthews"]', 'metrics = ["mathews"]'), "Did you mean matthews"),
        (("[files]", "[files"), r"films\.toml is no TOML: .*line"),
        (("[files]", '[dataset]\npath = "x"\n[files]'), "dataset and splits go together"),
        (("[files]", '[splits]\ntrain = "x"\n[files]'), "dataset and splits go together"),
        (("[files]", '[dataset]\npath = "x"\n[splits]\ntrain = "x"\n[files]'), "train is given twice"),
        (("[files]", '[dataset]\npath = "x"\n[splits]\ntrian = "x"\n[files]'), "splits has 'trian'. Did you mean train"),
        (("[files]", '[dataset]\npath = "x"\n[splits]\ndev = "x"\n[files]'), "the data set .*x: there is no such folder"),
        (("[files]", '[dataset]\npath = "x"\nid = "y"\n[splits]\ndev = "x"\n[files]'), "an id or a path. Give exactly one"),
        (
            ("[files]", '[dataset]\npath = "x"\nrevision = "y"\n[splits]\ndev = "x"\n[files]'),
            "A revision is of a data set with an id",
        ),
        (("[files]", "[ood.x]\n[files]"), r"ood\.x in .*: An out-of-domain set has a file or a dataset"),
        (("[files]", '[ood.x]\nfile = "train.csv"\nsplit = "y"\n[files]'), "split goes with dataset"),
        (
            ("[files]", '[ood.x]\ndataset = { id = "x" }\nsplit = "y"\nformat = { encoding = "latin-1" }\n[files]'),
            "format goes with file",
        ),
        (
            ("[files]", '[ood.x]\nfile = "train.csv"\ntext = ["s", "t"]\n[files]'),
            r"x names 2 text columns \['s', 't'\], but the task has 1",
        ),
        (("[files]", '[ood.dev]\nfile = "train.csv"\n[files]'), "'dev' cannot name an out-of-domain set"),
        (('train = "train.csv"\ntest = "data/test.csv"', ""), "The task films has no data"),
        (('1 = "positive"', ""), r"train\.csv: the label '1' \(2 times, lines 2, 4\) is not in the label map"),
    ],
)
def test_what_is_refused(folder: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in CARD
    with pytest.raises(InputError, match=message):
        load(folder, CARD.replace(*change))


def test_no_card(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot read .*no\.toml: No such file"):
        load_task(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(DataError, match="is not utf-8"):
        load_task(tmp_path / "bad.toml")


def test_files_without_a_card(folder: Path) -> None:
    task = task_from_files(
        train=folder / "train.csv", test=str(folder / "data" / "test.csv"), text="s", ood={"o": folder / "train.csv"}
    )
    assert (task.name, task.labels, task.ood) == ("train", ("0", "1"), ("o",))
    (folder / "l.csv").write_bytes("s;y\ncafé;1\nb;2.5\n".encode("latin-1"))
    form = Format(encoding="latin-1", delimiter=";")
    task = task_from_files(
        train=folder / "l.csv", text=["s"], label="y", kind="regression", form=form, metrics=["spearman"], name="n"
    )
    assert task.split("train").examples[0].fields == {"s": "café"}
    assert (task.name, task.metrics) == ("n", ("spearman",))


def test_files_without_a_card_that_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="has no data"):
        task_from_files(text="s")
    with pytest.raises(InputError, match='there is no kind "pair"'):
        task_from_files(train=folder / "train.csv", text=["s", "label"], kind="pair")  # type: ignore[arg-type]


def test_a_folder_for_all_files_and_columns_by_other_names(folder: Path) -> None:
    (folder / "data" / "train.tsv").write_text("#1 Text\tQuality\na\t1\nb\t0\n")
    (folder / "data" / "far.csv").write_text("s,stars,ok\nc,1,true\nd,3,true\ne,5,true\nf,5,false\n")
    card = """
folder = "data"
[files]
train = "train.tsv"
[format]
rename = { "#1 Text" = "s", Quality = "label" }
[columns]
text = "s"
[ood.far]
file = "far.csv"
label = "stars"
label_map = { 1 = "0", 5 = "1" }
where = { stars = ["1", "5"], ok = ["true"] }
format = {}
"""
    task = load(folder, card)
    assert [example.fields["s"] for example in task.split("far")] == ["c", "e"]
    assert task.split("far").labels == (0, 1)
    elsewhere = folder / "elsewhere"
    (folder / "data").rename(elsewhere)
    assert load(folder, card, overrides=[f"folder={elsewhere}"]).digest == task.digest
    with pytest.raises(DataError, match=r"far\.csv has no rows where stars is one of \['9'\]"):
        load(folder, card, overrides=[f"folder={elsewhere}", 'ood.far.where.stars=["9"]'])
    with pytest.raises(DataError, match=r"train\.tsv has no column 'Qualty'"):
        load(folder, card.replace("Quality", "Qualty"), overrides=[f"folder={elsewhere}"])
    with pytest.raises(DataError, match="two columns would have the same name"):
        load(folder, card.replace('Quality = "label"', 'Quality = "s"'), overrides=[f"folder={elsewhere}"])


def test_what_is_written_behind_a_pattern(folder: Path) -> None:
    card = """
kind = "generation"
files.train = "train.csv"
columns = { text = "s", label = "label" }
[[patterns]]
text = "Film: {s}\\nSaid:"
name = "said"
target = " {label}!"
"""
    prompt = load(folder, card).prompt("said")
    assert (prompt.pattern, prompt.target, prompt.words) == ("Film: {s}\nSaid:", " {label}!", {})
    with pytest.raises(InputError, match="'said' has a target, but nothing is written in a task of classification"):
        load(folder, card.replace("generation", "classification"))


def test_columns_that_files_of_a_kind_have(folder: Path) -> None:
    words = "\n".join(
        f"{number}\t{word}\t_\t{tag}\tx\t_\t_\t_\t_\t_" for number, word, tag in [(1, "a", "DET"), (2, "b", "NOUN")]
    )
    (folder / "a.conllu").write_text(words)
    (folder / "a.conll").write_text("a\tO\nb\tB-X\n")
    tagged = {name: task_from_files(train=folder / name, kind="labelling") for name in ("a.conllu", "a.conll")}
    assert {name: task.split("train").references for name, task in tagged.items()} == {
        "a.conllu": (("DET NOUN",),),
        "a.conll": (("O B-X",),),
    }
    assert tagged["a.conll"].split("train").examples[0].place == f"{folder / 'a.conll'}, line 1"
    card = 'kind = "labelling"\nfiles.train = "a.conllu"'
    assert load(folder, card).digest == tagged["a.conllu"].digest
    with pytest.raises(InputError, match="Which column has the texts"):
        task_from_files(train=folder / "train.csv")
    with pytest.raises(InputError, match="Which column has the texts"):
        load(folder, 'files.train = "train.csv"')


def test_multiple_choice(folder: Path) -> None:
    (folder / "copa.jsonl").write_text(
        '{"premise": "p", "a": "x", "b": "y", "label": 1}\n{"premise": "q", "a": "u", "b": "v", "label": 0}\n'
    )
    card = """
files.train = "copa.jsonl"
columns = { text = "premise", extra = ["a", "b"] }
[[patterns]]
text = "{premise} so {mask}"
options = { 0 = "a", 1 = "b" }
"""
    task = load(folder, card)
    assert (task.labels, task.split("train").labels) == (("0", "1"), (1, 0))
    assert task.prompt("1").options == {"0": "a", "1": "b"}
    for old, new, message in [
        ('1 = "b"', '2 = "b"', r"'1' has options for 0, 2\. It has one for each label, 0, 1"),
        ('1 = "b"', '1 = "c"', r"'1' has the option 'c', no column"),
        ("[[patterns]]", '[[patterns]]\nwords = { 0 = ["x"], 1 = ["y"] }', r"and no words"),
    ]:
        with pytest.raises(InputError, match=message):
            load(folder, card.replace(old, new))


def test_conversations(folder: Path) -> None:
    (folder / "a.jsonl").write_text(
        '{"instruction": "Add.", "input": "1 2", "output": "3"}\n'
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}\n'
    )
    card = 'kind = "generation"\nchat = true\nfiles.train = "a.jsonl"\n'
    task = load(folder, card)
    assert task.split("train").references == (("3",), ("Ho",))
    assert [example.place for example in task.split("train")] == [f"{folder / 'a.jsonl'}, line {line}" for line in (1, 2)]
    (folder / "a.jsonl").write_text('{"messages": [{"role": "usr", "content": "Hi"}]}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 1, turn 1 has the unknown role 'usr'"):
        load(folder, card)
    for wrong in (card.replace("generation", "classification"), card + 'columns.text = "messages"\n'):
        with pytest.raises(InputError, match='chat is for kind = "generation"'):
            load(folder, wrong)
