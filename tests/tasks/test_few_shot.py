"""K-shot splits: how many of each label, none twice, what becomes of the rest, and what does not change the draw."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtailor.core.errors import InputError
from lmtailor.tasks.example import Split
from lmtailor.tasks.few_shot import LM_BFF_SEEDS
from lmtailor.tasks.task import Task

LABELS = ("bad", "good", "so-so")


def rows(name: str, n: int) -> list[dict[str, object]]:
    return [{"text": f"{name} {i}", "label": LABELS[i % 3]} for i in range(n)]


def make(**splits: list[dict[str, object]]) -> Task:
    return Task.from_records(text="text", **splits)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def task() -> Task:
    return make(train=rows("train", 60), dev=rows("dev", 9))


def texts(split: Split) -> set[str]:
    return {example.fields["text"] for example in split}


@given(k=st.integers(1, 10), seed=st.integers(0, 1000))
def test_k_of_each_label_and_no_text_twice(k: int, seed: int) -> None:
    few = make(train=rows("train", 60), dev=rows("dev", 9)).few_shot(k, seed)
    for name in ("train", "dev"):
        assert Counter(few.split(name).labels) == {0: k, 1: k, 2: k}
    parts = [texts(few.split(name)) for name in ("train", "dev", "unlabelled")] if k < 10 else []
    assert sum(map(len, parts)) == len(set().union(*parts))
    ids = [example.id for split in few.splits.values() for example in split]
    assert len(ids) == len(set(ids))


def test_the_old_dev_is_the_test_set_and_the_rest_has_no_labels(task: Task) -> None:
    few = task.few_shot(4, 13)
    assert [(e.fields, e.label) for e in few.split("test")] == [(e.fields, e.label) for e in task.split("dev")]
    assert list(few.splits) == ["train", "dev", "test", "unlabelled"]
    assert len(few.split("unlabelled")) == 60 - 24
    assert all(example.label is None for example in few.split("unlabelled"))
    known = {example.fields["text"]: example.label for example in task.split("train")}
    assert all(known[e.fields["text"]] == e.label for name in ("train", "dev") for e in few.split(name))
    assert few.split("dev").examples[0].id.startswith("dev/train/")
    assert len(task.few_shot(4, 13, unlabelled=5).split("unlabelled")) == 5


def test_a_test_split_and_unlabelled_text_stay() -> None:
    parts = {name: rows(name, n) for name, n in (("train", 60), ("dev", 9), ("test", 6), ("unlabelled", 4))}
    task = Task.from_records(text="text", **parts, ood={"far": rows("far", 3)})  # type: ignore[arg-type]
    few = task.few_shot(2)
    assert few.split("test") is task.split("test")
    assert few.split("unlabelled") is task.split("unlabelled")
    assert few.split("far") is task.split("far")
    assert texts(few.split("dev")) <= texts(task.split("train"))
    bare = replace(task, splits={**task.splits, "test": Split(name="test", examples=task.split("unlabelled").examples)})
    assert texts(bare.few_shot(2).split("test")) == texts(task.split("dev"))


def test_the_draw_is_a_hash_of_seed_and_name(task: Task) -> None:
    drawn = {seed: texts(task.few_shot(4, seed).split("train")) for seed in LM_BFF_SEEDS}
    assert len(set(map(frozenset, drawn.values()))) == len(LM_BFF_SEEDS)
    assert texts(task.few_shot(4, 13).split("train")) == drawn[13]
    assert task.few_shot(4, 13).digest == task.few_shot(4, 13).digest != task.few_shot(4, 21).digest
    for name in ("train", "dev"):
        assert texts(task.few_shot(2, 13).split(name)) < texts(task.few_shot(4, 13).split(name))


def test_a_text_that_repeats_is_drawn_once() -> None:
    repeated: list[dict[str, object]] = [
        {"text": text, "label": label} for text, label in (("a  b", "x"), ("a b", "x"), ("a b", "y"), ("c", "x"))
    ]
    more: list[dict[str, object]] = [{"text": f"{label} {i}", "label": label} for label in ("x", "y") for i in range(2)]
    for seed in range(20):
        few = make(train=repeated + more).few_shot(1, seed)
        drawn = [" ".join(e.fields["text"].split()) for name in ("train", "dev") for e in few.split(name)]
        assert len(drawn) == len(set(drawn)) == 4
        rest = {" ".join(e.fields["text"].split()) for e in few.split("unlabelled")} if "unlabelled" in few.splits else set()
        assert not rest & set(drawn)


def test_regression_counts_the_sides_of_the_median() -> None:
    data = [{"text": f"t{i}", "label": i / 10} for i in range(20)]
    few = Task.from_records(text="text", train=data, kind="regression").few_shot(3, 1)
    for name in ("train", "dev"):
        assert sum(value > 0.95 for value in few.split(name).labels) == 3
        assert len(few.split(name)) == 6


def test_what_cannot_be_drawn(task: Task) -> None:
    with pytest.raises(InputError, match=r"11 shots need 22 different texts .* train has 20 of 'bad'.* Ask for 10 or fewer"):
        task.few_shot(11)
    with pytest.raises(InputError, match="at least 1 example a label; found 0"):
        task.few_shot(0)
    with pytest.raises(InputError, match="no train split"):
        make(dev=rows("dev", 9)).few_shot(1)
    with pytest.raises(InputError, match="limit of unlabelled"):
        task.few_shot(1, unlabelled=0)


def test_where_answers_are_texts_k_counts_examples() -> None:
    rows = [{"data": f"d{number}", "ref": [f"r{number}", "s"]} for number in range(10)]
    task = Task.from_records(train=rows, text="data", label="ref", kind="generation")
    drawn = task.few_shot(3, seed=1)
    assert {name: len(split) for name, split in drawn.splits.items()} == {"train": 3, "dev": 3, "unlabelled": 4}
    assert all(len(own) == 2 for own in drawn.split("train").references)
    assert not any(example.references for example in drawn.split("unlabelled"))
    assert {one.fields["data"] for one in drawn.split("train")} <= {
        one.fields["data"] for one in task.few_shot(4, 1).split("train")
    }
    with pytest.raises(InputError, match=r"6 shots need 12 different texts, 6 for train and 6 for dev; train has 10 to give"):
        task.few_shot(6)
