"""Evaluation of an adapter, or of a readout on the plain base, on a split of a task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.infer.calibrate import measured
from lmtailor.infer.score import Progress, decide
from lmtailor.infer.variants import score_examples
from lmtailor.methods.frozen import Frozen
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import Readout
from lmtailor.store.adapter import Adapter, build_adapter
from lmtailor.tasks.example import Example
from lmtailor.tasks.metrics import Scores, evaluate_predictions
from lmtailor.tasks.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What a model answered on some examples."""

    ids: tuple[str, ...]
    """Names of the examples (n,)."""
    scores_NC: NDArray[np.float32]
    """Scores (n, C); logits or log-probabilities, in regression the value itself."""
    predicted: NDArray[Any]
    """Label indices, or values in regression (n,)."""
    reference: NDArray[Any] | None
    """The truth, if all examples have one (n,)."""
    cut: int
    """Examples of which tokens were cut off to fit the model."""


def plain_adapter(base: Base, task: Task, readout: Readout, *, seed: int = 0) -> Adapter:
    """A readout on the untouched base, as an adapter that trains nothing: zero-shot, or few-shot with demonstrations.

    What the readout asks to have measured (calibration, PMI) is measured here.

    Raises:
        InputError: the readout has parameters of its own, which nobody trained.
    """
    adapter = build_adapter(base, Frozen(), readout, LabelSet.of(task), generator(seed, "start"), task)
    if adapter.num_parameters:
        raise InputError(
            f"{type(readout).__name__} has {adapter.num_parameters} parameters that must be trained before it can answer. "
            "Fit it first, or evaluate a Verbalizer."
        )
    return measured(base, adapter)


def predict_examples(
    base: Base, adapter: Adapter, examples: Sequence[Example], *, batch_size: int = 32, progress: Progress | None = None
) -> Predictions:
    """Run an adapter on examples.

    Raises:
        InputError: the adapter has no readout, or an example lacks a column.
    """
    reading = adapter.reading
    if reading is None:
        raise InputError("The adapter has no readout, so it gives no answers. Fit one with a readout, or use generate.")
    scores, items = score_examples(base, adapter.edits, reading, examples, batch_size=batch_size, progress=progress)
    known = [example.label for example in examples if example.label is not None]
    return Predictions(
        ids=tuple(example.id for example in examples),
        scores_NC=scores.numpy(),
        predicted=decide(scores, reading.kind),
        reference=np.array(known) if len(known) == len(examples) else None,
        cut=sum(item.cut > 0 for item in items),
    )


def predict_split(
    base: Base, task: Task, adapter: Adapter, *, split: str = "test", batch_size: int = 32, progress: Progress | None = None
) -> Predictions:
    """Run an adapter on a split of a task.

    Raises:
        InputError: other labels than the task's, an unknown split.
    """
    if adapter.reading is not None and adapter.labels != task.labels:
        raise InputError(f"The adapter answers with {list(adapter.labels)}, the task has the labels {list(task.labels)}.")
    return predict_examples(base, adapter, task.split(split).examples, batch_size=batch_size, progress=progress)


def measure(task: Task, predictions: Predictions, *, seed: int = 0) -> Scores:
    """The task's metrics of predictions, each with n and a bootstrap interval.

    Raises:
        InputError: some examples have no label.
    """
    if predictions.reference is None:
        raise InputError("Some examples have no label, so nothing can be measured on them. Use predict.")
    return evaluate_predictions(
        task.metrics, predictions.predicted, predictions.reference, kind=task.kind, labels=task.labels, seed=seed
    )


def evaluate(
    base: Base,
    task: Task,
    adapter: Adapter | None = None,
    *,
    readout: Readout | None = None,
    split: str = "test",
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """Metrics on a split.

    Args:
        base: the model.
        task: the data.
        adapter: what was fitted; or give `readout` alone to measure the plain base.
        readout: zero-shot or few-shot prompting.
        split: name of a split, out-of-domain sets included.
        batch_size: examples in a batch.
        seed: of the bootstrap, and of what the readout draws.
        progress: called with examples done and of how many.

    Returns:
        Metric → value, with n and a bootstrap interval.

    Raises:
        InputError: neither or both of adapter and readout, other labels than the task's, an unknown split.
    """
    if (adapter is None) == (readout is None):
        raise InputError("Give an adapter, or a readout for the plain base; one of the two.")
    if adapter is None:
        assert readout is not None
        adapter = plain_adapter(base, task, readout, seed=seed)
    predictions = predict_split(base, task, adapter, split=split, batch_size=batch_size, progress=progress)
    return measure(task, predictions, seed=seed)
