"""Instructed: a mixture is learned, the task is asked zero-shot, and other data is another work."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from lmtailor.base.base import Base
from lmtailor.compare.compare import compare
from lmtailor.compare.plan_file import plan_from_mapping
from lmtailor.core.errors import InputError, TrainingError, UnsupportedError
from lmtailor.fit.fit import fit
from lmtailor.fit.training import Training
from lmtailor.infer.evaluate import predict_split
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.lora import LoRA
from lmtailor.readouts.head import Head
from lmtailor.readouts.text import Text
from lmtailor.readouts.verbalizer import Verbalizer
from lmtailor.store.adapter import Adapter
from lmtailor.store.folder import load_adapter
from lmtailor.strategies.adapt import adapt
from lmtailor.strategies.instructed import Instructed
from lmtailor.tasks.mixture import load_mixture
from lmtailor.tasks.task import Task
from tests.fit.tasks import sentiment
from tests.tiny import tiny_base

TASK = sentiment(24, 12)
ASKED = Verbalizer(pattern="{sentence} it was {mask}", words={"neg": ("bad",), "pos": ("good",)})
TRAINING = Training(max_steps=160, batch_size=8, lr=5e-3)
CARD = """
kind = "classification"
labels = ["neg", "pos"]
[files]
train = "rows.jsonl"
[columns]
text = "s"
[[patterns]]
name = "was"
text = "{s} it was {mask}"
words = { neg = ["bad"], pos = ["good"] }
"""


@pytest.fixture
def mixture(tmp_path: Path) -> str:
    """The same task under another name, through a template of its own."""
    train = TASK.split("train")
    write(tmp_path, [{"s": one.fields["sentence"], "label": TASK.labels[int(one.label or 0)]} for one in train])
    (tmp_path / "card.toml").write_text(CARD)
    (tmp_path / "mix.toml").write_text('examples = 24\n[[tasks]]\ncard = "card.toml"\nname = "near"\n')
    return str(tmp_path / "mix.toml")


def write(folder: Path, rows: list[dict[str, str]]) -> None:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))


def run(mixture: str, base: Base | None = None, task: Task = TASK, **more: Any) -> Adapter:
    settings: dict[str, Any] = {"method": LoRA(rank=4), "readout": ASKED, "training": TRAINING, **more}
    return adapt(base or tiny_base("gpt2"), task, strategy=Instructed(mixture=mixture), **settings)


def test_what_was_learned_of_the_mixture_answers_the_task(mixture: str, tmp_path: Path) -> None:
    base = tiny_base("gpt2")
    adapter = run(mixture, base, out=tmp_path / "out")
    assert adapter.readout == ASKED
    assert adapter.scores["dev"]["accuracy"].value >= 0.9  # what is learned is the task itself
    loaded = load_adapter(tmp_path / "out", base)
    ours, theirs = (predict_split(base, TASK, one, split="dev") for one in (adapter, loaded))
    torch.testing.assert_close(torch.tensor(ours.scores_NC), torch.tensor(theirs.scores_NC))
    assert loaded.provenance["search"]["counts"] == {"near": 24}
    assert any("24 examples of 1 tasks: near 24" in note for note in loaded.provenance["notes"])


def test_measured_examples_that_are_learned_from_are_told(mixture: str, tmp_path: Path) -> None:
    write(tmp_path, [{"s": one.fields["sentence"], "label": TASK.labels[int(one.label or 0)]} for one in TASK.split("dev")])
    base, once = tiny_base("gpt2"), Training(max_steps=1)
    adapter = run(mixture, base, training=once)
    own = fit(base, load_mixture(mixture).task, method=LoRA(rank=4), readout=Text("{input}"), training=once)
    for name, value in own.state.items():
        torch.testing.assert_close(adapter.state[name], value)
    notes = adapter.provenance["notes"]
    assert any(note.startswith("12 of 12 examples of dev stand in what is learned from") for note in notes)


def test_another_content_of_the_mixture_is_another_work(mixture: str, tmp_path: Path) -> None:
    short = Training(max_steps=1)
    first = run(mixture, training=short, out=tmp_path / "out")
    again = run(mixture, training=short, out=tmp_path / "out")
    assert again.provenance["begun"] == first.provenance["begun"]
    write(tmp_path, [{"s": f"it {word}", "label": label} for word, label in (("is", "neg"), ("was", "pos")) * 4])
    with pytest.raises(TrainingError):
        run(mixture, training=short, out=tmp_path / "out")
    assert not any("stand in what is learned" in note for note in run(mixture, training=short).provenance["notes"])


def test_what_cannot_be_asked_without_being_learned_is_refused(mixture: str) -> None:
    with pytest.raises(InputError, match="say how"):
        run(mixture, readout=None)
    with pytest.raises(InputError, match="Head has parameters of its own to train"):
        run(mixture, readout=Head())
    with pytest.raises(InputError, match="frozen trains nothing"):
        run(mixture, method=Frozen())
    with pytest.raises(UnsupportedError, match="fills gaps"):
        run(mixture, tiny_base("bert"))
    with pytest.raises(InputError, match="missing"):
        run(str(Path(mixture).parent / "missing.toml"))


def test_a_cell_of_a_plan_learns_a_mixture_beside_other_routes(mixture: str, tmp_path: Path) -> None:
    readout = {"name": "verbalizer", "pattern": ASKED.pattern, "words": {"neg": ["bad"], "pos": ["good"]}}
    lora = {"name": "lora", "rank": 4}
    training = {"max_steps": 2, "batch_size": 8}
    plan = plan_from_mapping(
        {
            "seeds": [0],
            "baseline": False,
            "cells": [
                {
                    "name": "instructed",
                    "strategy": {"name": "instructed", "mixture": "mix.toml"},
                    "method": lora,
                    "readout": readout,
                    "training": training,
                },
                {"name": "tuned", "method": lora, "readout": readout, "training": training},
            ],
        },
        folder=tmp_path,
    )
    found = compare({"b": tiny_base("gpt2")}, TASK, plan=plan, out=tmp_path / "out", console=Console(file=io.StringIO()))
    record = next(one.record for one in found.runs if one.record.cell == "instructed")
    assert record.status == "done", record.reason
    assert record.settings["strategy"] == {
        "name": "instructed",
        "mixture": mixture,
        "learned": load_mixture(mixture).task.digest,
    }
    assert any("It learned 24 examples" in note for note in record.notes)
