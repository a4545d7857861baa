"""Fitting to soft labels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lmtailor.core.errors import InputError, TrainingError
from lmtailor.fit.fit import fit
from lmtailor.fit.soft_labels import soft_digest, soft_targets
from lmtailor.fit.training import Training
from lmtailor.methods.lora import LoRA
from lmtailor.objectives.distillation import Distillation
from lmtailor.objectives.supervised import Supervised
from lmtailor.tasks.example import Split
from lmtailor.tasks.task import Task
from tests.fit.tasks import grades, sentiment
from tests.fit.test_fit import Recorder, same
from tests.readouts.token_tasks import tagged
from tests.tiny import tiny_base

SHORT = Training(epochs=2, batch_size=8, lr=3e-3, checkpoint_every=1)


def unnamed() -> Task:
    """A task whose training examples have no labels of their own."""
    task = sentiment()
    train = tuple(replace(example, label=None) for example in task.split("train"))
    return replace(task, splits={**task.splits, "train": Split(name="train", examples=train)})


def soft(task: Task, sure: float = 0.9) -> dict[str, tuple[float, float]]:
    """What a good teacher of `sentiment` would say."""
    labels = sentiment().split("train").labels
    pairs = zip(task.split("train"), labels, strict=True)
    return {example.id: (sure, 1 - sure) if label == 0 else (1 - sure, sure) for example, label in pairs}


def test_a_model_learns_from_soft_labels_alone() -> None:
    base, task = tiny_base("bert"), unnamed()
    training = Training(epochs=12, batch_size=8, lr=1e-2)
    adapter = fit(base, task, method=LoRA(), objective=Distillation(), soft_labels=soft(task), training=training)
    assert adapter.scores["dev"]["accuracy"].value > 0.9
    assert adapter.provenance["settings"]["objective"] == {"name": "distillation", "temperature": 2.0}


def test_the_soft_labels_belong_to_their_examples_and_decide() -> None:
    base, task = tiny_base("bert"), unnamed()
    training = Training(epochs=1, batch_size=8, lr=1e-2)
    own = soft(task)
    turned = {name: own[name] for name in reversed(own)}
    flipped = {name: (q[1], q[0]) for name, q in own.items()}
    runs = [
        fit(base, task, method=LoRA(), objective=Distillation(), soft_labels=one, training=training)
        for one in (own, turned, flipped)
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_an_interrupted_distillation_goes_on_to_the_same_bits_and_with_the_same_labels_only(tmp_path: Path) -> None:
    base, task = tiny_base("bert", hidden_dropout_prob=0.1), unnamed()
    whole = fit(base, task, method=LoRA(), objective=Distillation(), soft_labels=soft(task), training=SHORT, out=tmp_path / "a")
    cut = tmp_path / "b"
    with pytest.raises(KeyboardInterrupt):
        fit(
            base,
            task,
            method=LoRA(),
            objective=Distillation(),
            soft_labels=soft(task),
            training=SHORT,
            out=cut,
            callbacks=[Recorder(5)],
        )
    with pytest.raises(TrainingError, match="other settings"):
        fit(base, task, method=LoRA(), objective=Distillation(), soft_labels=soft(task, 0.8), training=SHORT, out=cut)
    again = fit(base, task, method=LoRA(), objective=Distillation(), soft_labels=soft(task), training=SHORT, out=cut)
    assert same(whole, again)


def test_several_students_are_fitted_together() -> None:
    base, task = tiny_base("bert"), unnamed()
    labels = [soft(task), soft(task, 0.6)]
    both = fit(base, task, method=[LoRA(), LoRA()], objective=Distillation(), soft_labels=labels, training=SHORT, seed=[0, 1])
    alone = fit(base, task, method=LoRA(), objective=Distillation(), soft_labels=labels[1], training=SHORT, seed=1)
    for name, tensor in alone.state.items():
        torch.testing.assert_close(both[1].state[name], tensor, rtol=1e-3, atol=1e-5)


def test_targets_are_in_the_order_of_train_and_have_a_digest() -> None:
    task = sentiment()
    targets = soft_targets(task, Distillation(), soft(task))
    assert targets is not None
    assert targets.argmax(1).tolist() == list(task.split("train").labels)
    assert soft_digest(targets) != soft_digest(targets.flip(1))
    assert soft_targets(task, Supervised(), None) is None
    assert soft_digest(None) is None


def test_what_is_no_soft_label_is_refused() -> None:
    task = sentiment()
    own = soft(task)
    first = next(iter(own))
    with pytest.raises(InputError, match="give them"):
        soft_targets(task, Distillation(), None)
    with pytest.raises(InputError, match="would have no effect"):
        soft_targets(task, Supervised(), own)
    with pytest.raises(InputError, match=f"{first}' of train has no soft label"):
        soft_targets(task, Distillation(), {name: q for name, q in own.items() if name != first})
    with pytest.raises(InputError, match="'train/99', which is no example of train"):
        soft_targets(task, Distillation(), {**own, "train/99": (0.5, 0.5)})
    for wrong in ((0.5, 0.6), (1.2, -0.2), (1.0,), (float("nan"), 1.0)):
        with pytest.raises(InputError, match="must be a distribution over the 2 labels"):
            soft_targets(task, Distillation(), {**own, first: wrong})
    with pytest.raises(InputError, match="regression has none"):
        soft_targets(grades(), Distillation(), {})
    tags = tagged()
    even = [1 / len(tags.labels)] * len(tags.labels)
    with pytest.raises(InputError, match="labelling has none"):
        soft_targets(tags, Distillation(), {example.id: even for example in tags.split("train")})
    with pytest.raises(InputError, match="some examples of task's train have none"):
        soft_targets(unnamed(), Supervised(), None)
