"""Metrics of classification and regression, with bootstrap intervals and paired tests."""

from lmtailor.tasks.metrics.bootstrap import evaluate_predictions, paired_difference
from lmtailor.tasks.metrics.metric import METRICS, Metric, get_metric
from lmtailor.tasks.metrics.score import PairedTest, Score, Scores

__all__ = ["METRICS", "Metric", "PairedTest", "Score", "Scores", "evaluate_predictions", "get_metric", "paired_difference"]
