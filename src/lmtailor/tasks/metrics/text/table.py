"""The metrics of texts there are, by name."""

from lmtailor.core.errors import InputError, near
from lmtailor.tasks.metrics.text import answers, coco, diversity, meteor, mteval, rouge, spans
from lmtailor.tasks.metrics.text.metric import TextMetric

PERPLEXITY = "perplexity"
"""Of a model's own probabilities of the references, which texts alone do not give; see `evaluate.perplexity`."""

TEXT_METRICS: dict[str, TextMetric] = {
    metric.name: metric
    for metric in (
        *mteval.METRICS,
        *coco.METRICS,
        *meteor.METRICS,
        *rouge.METRICS,
        *answers.METRICS,
        *spans.METRICS,
        *diversity.METRICS,
    )
}


def get_text_metric(name: str) -> TextMetric:
    """The text metric of this name.

    Raises:
        InputError: there is none.
    """
    if name not in TEXT_METRICS:
        raise InputError(f"There is no text metric {name!r}. {near(name, TEXT_METRICS)}")
    return TEXT_METRICS[name]
