"""Evaluation of an adapter, or of a readout on the plain base, on a split of a task."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.infer.calibrate import measured
from lmtailor.infer.decoding import Decoding
from lmtailor.infer.score import Progress, decide, perplexity_of, score_rows
from lmtailor.infer.variants import score_examples
from lmtailor.infer.written_answers import refuse_decoding, write_answers
from lmtailor.methods.frozen import Frozen
from lmtailor.readouts.inquiry import Inquires, findings
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.text import TextReading
from lmtailor.store.adapter import Adapter, build_adapter
from lmtailor.tasks.example import TEXT_KINDS, Example
from lmtailor.tasks.metrics import Score, Scores, evaluate_predictions
from lmtailor.tasks.metrics.text.evaluate import evaluate_texts
from lmtailor.tasks.metrics.text.table import PERPLEXITY
from lmtailor.tasks.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What a model answered on some examples."""

    ids: tuple[str, ...]
    """Names of the examples (n,)."""
    scores_NC: NDArray[np.float32]
    """Scores (n, C); logits or log-probabilities, in regression the value itself. C is 0 where answers are texts."""
    predicted: NDArray[Any]
    """Label indices, values in regression, or texts (objects) (n,)."""
    reference: NDArray[Any] | None
    """The truth, if all examples have one (n,); of texts the tuples of references (objects)."""
    cut: tuple[str, ...]
    """What messages call the examples of which tokens were cut off to fit the model."""


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
    base: Base,
    adapter: Adapter,
    examples: Sequence[Example],
    *,
    batch_size: int = 32,
    decoding: Decoding | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """Run an adapter on examples; `decoding` says how text is written, by a `Text` readout.

    Raises:
        InputError: the adapter has no readout, an example lacks a column, or `decoding` where no text is written.
    """
    reading = adapter.reading
    if reading is None:
        raise InputError("The adapter has no readout, so it gives no answers. Fit one with a readout, or use generate.")
    if isinstance(reading, Inquires):
        refuse_decoding(decoding)
        asked = [reading.inquiry(example) for example in examples]
        items = [item for one in asked for item in one.items]
        rows = score_rows(base, adapter.edits, reading, items, batch_size=batch_size, progress=progress)
        return _texts(examples, [one.text for one in findings(asked, rows)], [one.items[0].cut for one in asked])
    if isinstance(reading, TextReading):
        slots = [0] * len(examples)
        written = write_answers(
            base, [adapter], examples, slots=slots, decoding=decoding, batch_size=batch_size, progress=progress
        )
        return _texts(examples, [one.text for one in written], [one.cut for one in written])
    refuse_decoding(decoding)
    scores, items = score_examples(base, adapter.edits, reading, examples, batch_size=batch_size, progress=progress)
    known = [example.label for example in examples if example.label is not None]
    return Predictions(
        ids=tuple(example.id for example in examples),
        scores_NC=scores.numpy(),
        predicted=decide(scores, reading.kind),
        reference=np.array(known) if len(known) == len(examples) else None,
        cut=_cut(examples, [item.cut for item in items]),
    )


def _texts(examples: Sequence[Example], texts: Sequence[str], cut: Sequence[int]) -> Predictions:
    """Answers that are texts, and how many tokens each input lost."""
    return Predictions(
        ids=tuple(example.id for example in examples),
        scores_NC=np.empty((len(examples), 0), dtype=np.float32),
        predicted=objects(texts),
        reference=objects([example.references for example in examples]) if all(one.references for one in examples) else None,
        cut=_cut(examples, cut),
    )


def _cut(examples: Sequence[Example], lost: Sequence[int]) -> tuple[str, ...]:
    return tuple(example.called for example, count in zip(examples, lost, strict=True) if count)


def objects(values: Sequence[object]) -> NDArray[Any]:
    """Values as an array of objects (n,), whatever they are."""
    out = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):  # at once, tuples of one length would be taken for rows
        out[i] = value
    return out


def predict_split(
    base: Base,
    task: Task,
    adapter: Adapter,
    *,
    split: str = "test",
    batch_size: int = 32,
    decoding: Decoding | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """Run an adapter on a split of a task.

    Raises:
        InputError: other labels than the task's, an unknown split.
    """
    if adapter.reading is not None and adapter.labels != task.labels:
        raise InputError(f"The adapter answers with {list(adapter.labels)}, the task has the labels {list(task.labels)}.")
    examples = task.split(split).examples
    return predict_examples(base, adapter, examples, batch_size=batch_size, decoding=decoding, progress=progress)


def measure(task: Task, predictions: Predictions, *, seed: int = 0) -> Scores:
    """The task's metrics of predictions, each with n and a bootstrap interval.

    Raises:
        InputError: some examples have no label.
    """
    _check_known(predictions.reference is not None)
    assert predictions.reference is not None
    if task.kind in TEXT_KINDS:
        return evaluate_texts(task.metrics, list(predictions.predicted), list(predictions.reference), seed=seed)
    return evaluate_predictions(
        task.metrics, predictions.predicted, predictions.reference, kind=task.kind, labels=task.labels, seed=seed
    )


def _check_known(known: bool) -> None:
    if not known:
        raise InputError("Some examples have no label or reference, so nothing can be measured on them. Use predict.")


def reference_perplexity(
    base: Base,
    adapter: Adapter,
    examples: Sequence[Example],
    *,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """Perplexity of the references of examples under an adapter that writes: exp of the mean −log p of their tokens.

    Every reference counts, its end token included; the interval is over examples.

    Raises:
        InputError: the adapter does not write, or an example has no reference.
    """
    reading = adapter.reading
    if not isinstance(reading, TextReading):
        raise InputError("Perplexity is of references that an adapter would write; this one has no Text readout.")
    items = [item for example in examples for item in reading.items(example)]
    rows = score_rows(base, adapter.edits, reading, items, batch_size=batch_size, progress=progress)
    return Scores([perplexity_of(items, rows, seed=seed)])


def evaluate(  # noqa: PLR0913 - every argument is a choice of its own
    base: Base,
    task: Task,
    adapter: Adapter | None = None,
    *,
    readout: Readout | None = None,
    split: str = "test",
    batch_size: int = 32,
    decoding: Decoding | None = None,
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
        decoding: how text is written, by a `Text` readout; None: greedily, 64 tokens at most, or as its length allows.
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
    return measure_adapter(
        base, task, adapter, split=split, batch_size=batch_size, decoding=decoding, seed=seed, progress=progress
    ).scores


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an adapter scores on a split."""

    scores: Scores
    cut: tuple[str, ...]
    """What messages call the examples of which tokens were cut off to fit the model."""


def measure_adapter(
    base: Base,
    task: Task,
    adapter: Adapter,
    *,
    split: str = "test",
    batch_size: int = 32,
    decoding: Decoding | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measured:
    """The task's metrics on a split, perplexity among them, and what was cut.

    Raises:
        InputError: as `evaluate`; some examples have no label; nothing is to be written, and `decoding` says how.
    """
    _check_known(task.split(split).labelled)
    likely = PERPLEXITY in task.metrics and task.kind == "generation"
    texts = replace(task, metrics=tuple(name for name in task.metrics if name != PERPLEXITY) or task.metrics)
    found: dict[str, Score] = {}
    cut: tuple[str, ...] = ()
    if texts.metrics != (PERPLEXITY,):
        predictions = predict_split(
            base, texts, adapter, split=split, batch_size=batch_size, decoding=decoding, progress=progress
        )
        found |= measure(texts, predictions, seed=seed)
        cut = predictions.cut
    else:
        refuse_decoding(decoding)
    if likely:
        examples, tell = task.split(split).examples, progress if not found else None
        found |= reference_perplexity(base, adapter, examples, batch_size=batch_size, seed=seed, progress=tell)
    return Measured(scores=Scores([found[name] for name in task.metrics]), cut=cut)
