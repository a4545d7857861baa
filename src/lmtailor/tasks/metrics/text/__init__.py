"""Metrics of texts against references, with bootstrap intervals and paired tests."""

from lmtailor.tasks.metrics.text.evaluate import evaluate_texts, paired_text_difference, perplexity
from lmtailor.tasks.metrics.text.metric import References, TextMetric
from lmtailor.tasks.metrics.text.table import TEXT_METRICS, get_text_metric

__all__ = [
    "TEXT_METRICS",
    "References",
    "TextMetric",
    "evaluate_texts",
    "get_text_metric",
    "paired_text_difference",
    "perplexity",
]
