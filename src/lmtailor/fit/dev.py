"""Scores on dev while a fit runs.

Of a text that is written, the model's own probability of the references is measured, in one pass: writing every text anew at each
evaluation would take longer than the fit.

Answers that one pass gives (tags, spans) are read off its scores and measured as at the end.

Shapes: n items, C labels.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lmtailor.fit.source import Source
from lmtailor.infer.score import Rows, by_length, decide, perplexity_of, table
from lmtailor.readouts.batch import Batch, Encoded
from lmtailor.readouts.inquiry import Inquiry, findings
from lmtailor.tasks.metrics import Scores, evaluate_predictions
from lmtailor.tasks.metrics.text.evaluate import evaluate_texts
from lmtailor.tasks.task import Task

RESAMPLES = 200
"""Of the bootstrap while a fit runs."""


def dev_scores(
    task: Task,
    items: Sequence[Encoded],
    source: Source,
    batch_size: int,
    inquiries: Sequence[Inquiry] = (),
    *,
    together: bool = False,
) -> Scores:
    """The task's metrics on its dev split; of texts that are written, perplexity.

    Args:
        task: with a dev split.
        items: what a fit makes of it.
        source: scores them.
        batch_size: items in a batch.
        inquiries: how answers are read, where one pass gives texts; the items are theirs.
        together: whether the references of one input stand together, for a source that runs it once.
    """
    if task.kind == "generation":
        rows = token_rows(items, source, batch_size, together=together)
        return Scores([perplexity_of(items, rows, resamples=RESAMPLES)])
    rows = _rows(items, source, batch_size, lambda scores_MC, _: scores_MC)
    if inquiries:
        texts = [one.text for one in findings(inquiries, rows)]
        return evaluate_texts(task.metrics, texts, task.split("dev").references, resamples=RESAMPLES)
    answers, reference = decide(table(rows, task.num_outputs), task.kind), task.split("dev").labels
    return evaluate_predictions(task.metrics, answers, reference, kind=task.kind, labels=task.labels, resamples=RESAMPLES)


def token_rows(items: Sequence[Encoded], source: Source, batch_size: int, *, together: bool = False) -> list[Tensor]:
    """log p of each item's target tokens (units, 1).

    Args:
        items: what is scored.
        source: scores them.
        batch_size: items in a batch.
        together: whether items of one example stand together, for a source that runs their beginning once.
    """
    return _rows(items, source, batch_size, _of_targets, _by_example if together else by_length)


def _by_example(items: Sequence[Encoded], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches, items of one example side by side, the longest examples first."""
    longest: dict[str, int] = {}
    for item in items:
        longest[item.id] = max(item.length, longest.get(item.id, 0))
    order = sorted(range(len(items)), key=lambda i: (-longest[items[i].id], items[i].id, i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _rows(
    items: Sequence[Encoded],
    source: Source,
    batch_size: int,
    keep: Callable[[Tensor, Batch], Tensor],
    divide: Callable[[Sequence[Encoded], int], Iterator[list[int]]] = by_length,
) -> list[Tensor]:
    """What is to be kept of the scores (units, …) of each item, on the CPU."""
    rows = Rows(items)
    with torch.no_grad():
        for indices in divide(items, batch_size):
            rows.keep(indices, keep(*source.scores(indices, training=False)).float().cpu())
    return rows.all()


def _of_targets(scores_MC: Tensor, batch: Batch) -> Tensor:
    """log p of the target tokens (M, 1), where scores are of them alone or of all words."""
    return scores_MC.gather(1, batch.targets_NP[batch.targets_NP >= 0][:, None]) if scores_MC.shape[1] > 1 else scores_MC
