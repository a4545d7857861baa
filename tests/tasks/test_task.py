"""Tasks from records: what is read, what is refused, what is noted."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from lmtailor.core.errors import DataError, InputError
from lmtailor.tasks.task import Example, Split, Task

TRAIN = [{"s": "good film", "label": "pos"}, {"s": "bad film", "label": "neg"}, {"s": "fine", "label": "pos"}]
DEV = [{"s": "great", "label": "pos"}, {"s": "awful", "label": "neg"}]

NUMBERS = [{"s": "a", "y": 1}, {"s": "b", "y": 2}]


def make(**options: Any) -> Task:
    return Task.from_records(**{"text": "s", "train": TRAIN, "dev": DEV} | options)


def test_a_task_of_records() -> None:
    task = make(test=DEV[:1], unlabelled=[{"s": "who knows"}], ood={"books": [{"s": "dull book", "label": "neg"}]}, name="films")
    assert (task.name, task.kind, task.text, task.label, task.labels) == (
        "films",
        "classification",
        ("s",),
        "label",
        ("neg", "pos"),
    )
    assert task.metrics == ("accuracy", "macro_f1")
    assert list(task.splits) == ["train", "dev", "test", "unlabelled", "books"]
    assert task.ood == ("books",)
    assert task.split("train").examples[1] == Example(id="train/1", fields={"s": "bad film"}, label=0)
    assert task.split("train").labels == (1, 0, 1)
    assert task.split("unlabelled").examples[0].label is None
    assert not task.split("unlabelled").labelled
    assert len(task.split("dev")) == len(list(task.split("dev"))) == 2
    assert task.num_outputs == 2


def test_pairs_further_columns_and_numbers() -> None:
    rows: list[dict[str, object]] = [
        {"a": "x", "b": "y", "topic": None, "year": 1999, "y": True},
        {"a": "z", "b": 2.5, "topic": "t", "year": 7, "y": False},
    ]
    task = Task.from_records(train=rows, text=["a", "b"], label="y", extra=["topic", "year"])
    assert task.columns == ("a", "b", "topic", "year")
    assert [example.fields for example in task.split("train")] == [
        {"a": "x", "b": "y", "topic": "", "year": "1999"},
        {"a": "z", "b": "2.5", "topic": "t", "year": "7"},
    ]
    assert task.labels == ("false", "true")


def test_labels_of_numbers_are_text_in_numeric_order() -> None:
    rows = [{"s": str(i), "label": label} for i, label in enumerate([10, 2.0, "2", " 1 "])]
    task = make(train=rows, dev=None)
    assert task.labels == ("1", "2", "10")
    assert task.split("train").labels == (2, 1, 1, 0)


def test_declared_labels_and_label_map() -> None:
    task = make(labels=["positive", "negative"], label_map={"pos": "positive", "neg": "negative"})
    assert task.labels == ("positive", "negative")
    assert task.split("dev").labels == (0, 1)
    assert make(labels=["pos", "neg", "mixed"]).notes == ("No example of train has the label 'mixed'.",)


def test_regression() -> None:
    task = Task.from_records(train=[{"s": "a", "y": "1.5"}, {"s": "b", "y": 2}], text="s", label="y", kind="regression")
    assert task.labels == ()
    assert task.metrics == ("pearson", "spearman")
    assert task.split("train").labels == (1.5, 2.0)
    assert task.num_outputs == 1


def test_a_test_split_alone_is_enough_for_zero_shot() -> None:
    assert make(train=None, dev=None, test=DEV).labels == ("neg", "pos")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "x"}, r"train records has no column 'x'"),
        ({"text": "labl"}, r"Did you mean label"),
        ({"dev": []}, "dev records has no rows"),
        ({"train": None, "dev": None}, "has no data"),
        ({"train": [*TRAIN, "x"]}, "train records: row 4 is str, not a mapping"),
        (
            {"dev": [{"s": " ", "label": "pos"}, *DEV, {"label": "neg"}]},
            r"2 of 4 rows have an empty text in column 's' \(rows 1, 4\)",
        ),
        ({"dev": [{"s": ["x"], "label": "pos"}]}, "column 's' holds list, not text, in row 1"),
        ({"dev": [{"s": "x\ud800", "label": "pos"}]}, "holds surrogates, which are no characters, in row 1"),
        ({"dev": [{"s": "x", "label": ""}, {"s": "y"}, *DEV]}, r"2 of 4 rows have no label in column 'label' \(rows 1, 2\)"),
        ({"dev": [{"s": "x", "label": ["pos"]}]}, "column 'label' holds list, not labels, in row 1"),
        (
            {"dev": [*DEV, {"s": "x", "label": "mixed"}]},
            r"\(dev\) has the label 'mixed' \(1 row\), which train lacks. Train has neg, pos",
        ),
        (
            {"ood": {"o": [{"s": "x", "label": "?"}, {"s": "y", "label": "?"}]}},
            r"\(o\) has the label '\?' \(2 rows\), which train lacks",
        ),
        ({"labels": ["neg", "poss"]}, r"\(train\) has the label 'pos' \(2 rows\), not among the labels.*Did you mean poss"),
        ({"labels": ["neg", "pos", "neg"]}, "'neg' stands twice"),
        ({"label_map": {"pos": "p"}}, r"the label 'neg' \(row 2\) is not in the label map"),
        ({"train": TRAIN[:1]}, r"All 1 examples of train \(train records\) have the label 'pos': nothing can be learned"),
        ({"train": None, "dev": DEV[:1]}, "at least two labels; found \\['pos'\\]"),
        ({"text": ["s", "s"]}, "two for a pair"),
        ({"text": []}, "two for a pair"),
        ({"extra": ["s"]}, "'s' is a text column already"),
        ({"metrics": ["acuracy"]}, "Did you mean accuracy"),
        ({"metrics": ["f1"], "labels": ["pos", "neg", "so"]}, "f1 is of the second of two labels; found 3"),
        ({"metrics": ["pearson"]}, "for regression, not for classification"),
        ({"kind": "regression", "labels": ["a"]}, "are for classification"),
        ({"dev_fraction": 0.2}, "no dev split of its own"),
        ({"dev": None, "dev_fraction": 1.0}, "between 0 and 1"),
        ({"dev": None, "dev_fraction": 0.01}, "of 3 distinct texts leaves train or dev empty"),
        ({"limits": {"tset": 3}}, "limit for the split 'tset'"),
        ({"limits": {"dev": 0}}, "limit of dev must be at least 1"),
        ({"limits": {"train": 1}}, "limit of train is 1, but train has 2 labels"),
        ({"kind": "regression", "label": "y", "train": NUMBERS, "dev": None, "limits": {"train": 1}}, "of train after the limit"),
        ({"verbalizer": {"pos": ["good"]}}, "no words for 'neg'"),
        ({"verbalizer": {"pos": ["good"], "neg": []}}, "at least one, none empty"),
        ({"verbalizer": {"poss": ["good"]}}, "'poss', which is no label. Did you mean pos"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**options)


@pytest.mark.parametrize("value", ["high", "nan", "inf", float("inf"), True])
def test_regression_labels_are_finite_numbers(value: object) -> None:
    rows = [{"s": "a", "label": 1}, {"s": "b", "label": value}]
    with pytest.raises(DataError, match=r"1 of 2 labels in column 'label' are no finite numbers \(row 2"):
        make(train=rows, dev=None, kind="regression")


def test_regression_with_one_value_only() -> None:
    with pytest.raises(DataError, match="All 2 examples of train"):
        make(train=[{"s": "a", "label": 1}, {"s": "b", "label": 1.0}], dev=None, kind="regression")


def test_unknown_split() -> None:
    with pytest.raises(InputError, match=r"has no split 'tran'. Did you mean train"):
        make().split("tran")
    with pytest.raises(DataError, match="1 of 1 examples of unlabelled have no label"):
        make(unlabelled=[{"s": "x"}]).split("unlabelled").labels  # noqa: B018


def test_an_out_of_domain_set_is_a_split_of_another_name() -> None:
    task = make()
    for name in ("dev", "nowhere"):
        with pytest.raises(InputError, match=f"'{name}' cannot be an out-of-domain set"):
            replace(task, ood=(name,))


def test_notes_count_repeated_and_shared_texts() -> None:
    train = [*TRAIN, {"s": "good  film ", "label": "pos"}]
    test = [{"s": "fine", "label": "pos"}, {"s": "great", "label": "pos"}, {"s": "new", "label": "neg"}]
    notes = make(train=train, test=test, ood={"o": TRAIN[:2]}, unlabelled=[{"s": "new"}]).notes
    assert notes == (
        "train: 1 of 4 examples repeat a text that stands earlier in it.",
        "test: 1 of 3 examples have a text that is also in train: scores on them mean less.",
        "test: 1 of 3 examples have a text that is also in dev: scores on them mean less.",
        "test: 1 of 3 examples have a text that is also in unlabelled: scores on them mean less.",
        "o: 2 of 2 examples have a text that is also in train: scores on them mean less.",
    )
    assert make().notes == ()


def test_dev_from_train_is_stratified_and_keeps_texts_together() -> None:
    rows = [{"s": f"text {i // 2}", "label": "a" if i < 160 else "b"} for i in range(200)]  # every text twice
    task = make(train=rows, dev=None, dev_fraction=0.1)
    dev, train = task.split("dev"), task.split("train")
    assert (len(dev), len(train)) == (20, 180)
    assert Counter(dev.labels) == {0: 16, 1: 4}
    assert not {example.fields["s"] for example in dev} & {example.fields["s"] for example in train}
    assert not [note for note in task.notes if "also in" in note]
    assert len({example.id for example in (*dev, *train)}) == 200
    again = make(train=rows, dev=None, dev_fraction=0.1)
    assert again.digest == task.digest
    assert make(train=rows, dev=None, dev_fraction=0.1, seed=1).digest != task.digest


def test_limits_are_stratified_samples() -> None:
    rows = [{"s": f"text {i}", "label": "a" if i < 80 else "b"} for i in range(100)]
    task = make(train=rows, dev=rows[70:], limits={"train": 10, "dev": 500})
    assert Counter(task.split("train").labels) == {0: 8, 1: 2}
    assert len(task.split("dev")) == 30
    numbers = [int(example.id.removeprefix("train/")) for example in task.split("train")]
    assert numbers == sorted(numbers)
    assert [rows[number]["s"] for number in numbers] == [example.fields["s"] for example in task.split("train")]


def test_digest_is_of_the_content() -> None:
    task = make()
    assert task.digest == make(name="other", metrics=["matthews"], patterns=["{s} {mask}"]).digest
    assert task.digest != make(dev=DEV[::-1]).digest
    assert task.digest != make(label_map={"pos": "p", "neg": "n"}).digest
    assert task.digest != make(train=[*TRAIN[:2], {"s": "fine!", "label": "pos"}]).digest
    assert len(task.digest) == 64


def test_a_task_does_not_print_its_data() -> None:
    assert "good film" not in repr(make())
    assert Split(name="x", examples=()) != Split(name="y", examples=())
