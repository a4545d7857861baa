"""Samples of the training split: nested, stratified, and another for each seed."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtailor.compare.plan import Budget, Cell
from lmtailor.compare.sizes import check_sizes, nested_order, sized
from lmtailor.core.errors import InputError
from lmtailor.tasks.task import Task

LABELS = {"rare": 7, "some": 33, "often": 160}


@pytest.fixture(scope="module")
def task() -> Task:
    train = [{"text": f"{label} {n}", "label": label} for label, count in LABELS.items() for n in range(count)]
    return Task.from_records(text="text", train=train, test=train[:5], name="tweets")


def ids(task: Task) -> set[str]:
    return {example.id for example in task.split("train")}


def test_smaller_samples_are_contained_in_larger(task: Task) -> None:
    for seed in (0, 1):
        samples = [ids(sized(task, count, seed)) for count in (1, 2, 3, 10, 50, 100, 199)]
        assert [len(sample) for sample in samples] == [1, 2, 3, 10, 50, 100, 199]
        assert all(small < large for small, large in itertools.pairwise(samples))


def test_labels_keep_their_shares(task: Task) -> None:
    for count in (20, 50, 100):
        found = Counter(sized(task, count, 0).split("train").labels)
        for label, number in enumerate(LABELS[name] for name in task.labels):
            assert abs(found[label] - count * number / 200) <= 1, (count, label)
    assert len(set(sized(task, 3, 0).split("train").labels)) == 3, "each label once as soon as it can be"


def test_seeds_draw_their_own_and_the_same_each_time(task: Task) -> None:
    first, again, other = sized(task, 50, 0), sized(task, 50, 0), sized(task, 50, 1)
    assert first.digest == again.digest != other.digest
    assert first.split("test") is task.split("test")
    assert sized(task, 200, 0) is sized(task, 999, 0) is task


def test_examples_keep_their_order(task: Task) -> None:
    order = [example.id for example in task.split("train")]
    kept = [example.id for example in sized(task, 40, 0).split("train")]
    assert kept == [one for one in order if one in set(kept)]


def test_numbers_are_sampled_plainly() -> None:
    train = [{"text": f"{n}", "label": n / 7} for n in range(40)]
    task = Task.from_records(text="text", train=train, test=train[:5], name="grades", kind="regression")
    assert ids(sized(task, 10, 0)) < ids(sized(task, 20, 0))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(0, 3))
def test_every_beginning_is_a_stratified_sample(strata: list[int], seed: int) -> None:
    order = nested_order(strata, [str(index) for index in range(len(strata))], seed)
    assert sorted(order) == list(range(len(strata)))
    there = Counter(strata)
    for count in range(len(there), len(strata) + 1):
        found = Counter(strata[index] for index in order[:count])
        assert len(found) == len(there)
        for one, number in found.items():
            share = there[one] / len(strata)
            assert number <= max(1.0, count * share + 0.5 + share * len(there) / 2 + 1e-9), "the bound of Sainte-Laguë's rule"


def test_sizes_that_cannot_be(task: Task) -> None:
    check_sizes([Cell(name="a", examples=200), Cell(name="b")], task, Budget())
    with pytest.raises(InputError, match="The cell a asks for 201 training examples, and train has 200"):
        check_sizes([Cell(name="a", examples=201)], task, Budget())
    with pytest.raises(InputError, match="has a training size, and shots say"):
        check_sizes([Cell(name="a", examples=5)], task, Budget(shots=2))
    check_sizes([Cell(name="a")], task, Budget(shots=2))
