"""Soft labels from a file of answers and from an adapter."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import DataError, InputError
from lmtailor.fit.fit import fit
from lmtailor.fit.soft_labels import soft_targets
from lmtailor.fit.teacher import check_soft_source, soft_labels_from, soft_source_digest
from lmtailor.fit.training import Training
from lmtailor.infer.evaluate import predict_split
from lmtailor.methods.bitfit import BitFit
from lmtailor.objectives.distillation import Distillation
from lmtailor.tasks.task import Task
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("bert")


@pytest.fixture(scope="module")
def task() -> Task:
    rows = [{"text": f"a {word} film", "label": label} for word, label in (("good", "pos"), ("bad", "neg"), ("sad", "neg"))]
    return Task.from_records(text="text", train=rows, dev=rows, name="films")


def answers(file: Path, *lines: object) -> Path:
    file.write_text("".join(f"{json.dumps(line) if not isinstance(line, str) else line}\n" for line in lines), "utf-8")
    return file


GOOD = [{"id": i + 1, "label": "pos", "scores": {"pos": p, "neg": 1 - p}} for i, p in enumerate((0.75, 0.5, 0.0))]


def test_a_file_says_what_each_row_of_train_is(base: Base, task: Task, tmp_path: Path) -> None:
    named = [{"id": "train/0", "scores": {"neg": 0.25, "pos": 0.75}}, "", *GOOD[1:]]
    expected = {"train/0": [0.25, 0.75], "train/1": [0.5, 0.5], "train/2": [1.0, 0.0]}
    assert task.labels == ("neg", "pos")
    assert soft_labels_from(answers(tmp_path / "a.jsonl", *GOOD), base, task) == expected
    assert soft_labels_from(answers(tmp_path / "b.jsonl", *named), base, task) == expected


def test_answers_to_rows_that_are_not_trained_on_are_left_out(base: Base, task: Task, tmp_path: Path) -> None:
    train = task.split("train")
    fewer = replace(task, splits={**task.splits, "train": replace(train, examples=train.examples[1:])})
    found = soft_labels_from(answers(tmp_path / "a.jsonl", *GOOD), base, fewer)
    assert list(found) == ["train/1", "train/2"]
    assert soft_targets(fewer, Distillation(), found) is not None


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (GOOD[:1], r"no answer to train/1 and 1 others of the 3 training examples.* without a column id"),
        (GOOD[:2], r"no answer to the training example train/2"),
        ([*GOOD, GOOD[0]], r"a.jsonl, line 4 answers train/0 again"),
        ([*GOOD[:2], {"id": 3, "scores": {"pos": 1.0, "neutral": 0.0}}], r"line 3 answers with pos, neutral; films has neg, pos"),
        (["{"], r"line 1 is no answer of a model"),
        ([{"id": 1, "label": "pos"}], r"line 1 is no answer of a model"),
        ([{"id": 1, "scores": {"pos": "1", "neg": 0}}], r"line 1 is no answer of a model"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(base: Base, task: Task, tmp_path: Path, lines: list[object], told: str) -> None:
    with pytest.raises((InputError, DataError), match=told):
        soft_labels_from(answers(tmp_path / "a.jsonl", *lines), base, task)


def test_an_adapter_is_asked(base: Base, task: Task, tmp_path: Path) -> None:
    teacher = fit(base, task, method=BitFit(), training=Training(max_steps=2), out=tmp_path / "teacher")
    found = soft_labels_from(tmp_path / "teacher", base, task)
    expected = torch.from_numpy(predict_split(base, task, teacher, split="train").scores_NC).softmax(1)
    torch.testing.assert_close(torch.tensor([found[f"train/{i}"] for i in range(3)]), expected)
    turned = replace(task, labels=("pos", "neg"))
    swapped = soft_labels_from(tmp_path / "teacher", base, turned)
    assert [swapped[name][::-1] for name in found] == [found[name] for name in found]
    with pytest.raises(InputError, match="answers with neg, pos; films has neg, new, pos"):
        soft_labels_from(tmp_path / "teacher", base, replace(task, labels=("neg", "new", "pos")))


def test_where_there_is_nothing(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match="There are no soft labels in"):
            check_soft_source(path)


def test_the_digest_follows_the_answers(base: Base, task: Task, tmp_path: Path) -> None:
    file = answers(tmp_path / "a.jsonl", *GOOD)
    first = soft_source_digest(file)
    answers(file, *GOOD[:2])
    assert soft_source_digest(file) != first
    digests = set()
    for seed in (0, 1):
        fit(base, task, method=BitFit(), training=Training(max_steps=1), seed=seed, out=tmp_path / f"{seed}")
        digests.add(soft_source_digest(tmp_path / f"{seed}"))
    assert len(digests) == 2
