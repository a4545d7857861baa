"""Scores on dev while a fit runs.

Of a text that is written, the model's own probability of the references is measured, in one pass: writing every text anew at each
evaluation would take longer than the fit.

Shapes: n items, C labels, M answers of a batch.
"""

from collections.abc import Sequence

import torch

from lmtailor.fit.source import Source
from lmtailor.infer.score import by_length, decide
from lmtailor.readouts.batch import Encoded
from lmtailor.tasks.metrics import Scores, evaluate_predictions
from lmtailor.tasks.metrics.text.evaluate import perplexity
from lmtailor.tasks.task import Task

RESAMPLES = 200
"""Of the bootstrap while a fit runs."""


def dev_scores(task: Task, items: Sequence[Encoded], source: Source, batch_size: int) -> Scores:
    """The task's metrics on its dev split; of texts that are written, perplexity.

    Args:
        task: with a dev split.
        items: what a fit makes of it.
        source: scores them.
        batch_size: items in a batch.
    """
    if task.kind == "generation":
        return _perplexity(items, source, batch_size)
    out = torch.empty(len(items), task.num_outputs)
    with torch.no_grad():
        for indices in by_length(items, batch_size):
            out[torch.tensor(indices)] = source.scores(indices, training=False)[0].float().cpu()
    reference = task.split("dev").labels
    return evaluate_predictions(
        task.metrics, decide(out, task.kind), reference, kind=task.kind, labels=task.labels, resamples=RESAMPLES
    )


def _perplexity(items: Sequence[Encoded], source: Source, batch_size: int) -> Scores:
    log_p = [0.0] * len(items)
    with torch.no_grad():
        for indices in by_length(items, batch_size):
            scores_MC, batch = source.scores(indices, training=False)
            if scores_MC.shape[1] > 1:
                scores_MC = scores_MC.gather(1, batch.targets_NP[batch.targets_NP >= 0][:, None])
            for i, own in zip(indices, torch.split(scores_MC[:, 0], [items[i].units for i in indices]), strict=True):
                log_p[i] = float(own.double().sum())
    return Scores([perplexity(log_p, [item.units for item in items], resamples=RESAMPLES)])
