"""A real masked model on real sentences: zero-shot it is right a little more often than not, as its authors measured."""

from pathlib import Path

import torch

from lmtailor.base.load import load_base
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.tasks.task import Task

COUNT = 200


def test_zero_shot_sentiment(shared: Path) -> None:
    lines = (shared / "data" / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()[:COUNT]
    rows = [dict(zip(("sentence", "label"), line.split("\t"), strict=True)) for line in lines]
    task = Task.from_records(text="sentence", dev=rows)
    base = load_base(shared / "models" / "minilm-mlm")
    reading = Verbalizer("{sentence} It was {mask}.", {"0": ("terrible",), "1": ("great",)}).bind(base, LabelSet.of(task), None)
    items = sorted((reading.encode(example) for example in task.split("dev")), key=lambda item: item.length)
    right = 0
    for start in range(0, COUNT, 50):
        batch = reading.collate(items[start : start + 50])
        with torch.no_grad():
            scores = reading.scores(base, base.hidden(batch.inputs), batch)
        assert batch.labels_B is not None
        right += int((scores.argmax(1) == batch.labels_B).sum())
    assert 0.55 < right / COUNT < 0.65
