"""Which way a metric points, and which one chooses."""

from collections.abc import Sequence

from lmtailor.tasks.example import TaskKind
from lmtailor.tasks.metrics.metric import METRICS, get_metric
from lmtailor.tasks.metrics.text.table import PERPLEXITY, get_text_metric


def greater_is_better(name: str) -> bool:
    """Whether a larger value is a better one.

    Raises:
        InputError: there is no such metric.
    """
    if name == PERPLEXITY:
        return False
    return (get_metric(name) if name in METRICS else get_text_metric(name)).greater_is_better


def choosing_metric(kind: TaskKind, metrics: Sequence[str]) -> str:
    """The metric that chooses checkpoints and candidates on dev: the first; of texts that are written, perplexity."""
    return PERPLEXITY if kind == "generation" else metrics[0]
