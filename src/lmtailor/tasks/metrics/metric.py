"""The metrics there are, by name."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmtailor.core.errors import InputError, near
from lmtailor.tasks.example import TaskKind
from lmtailor.tasks.metrics.classification import accuracy, f1, macro_f1, matthews
from lmtailor.tasks.metrics.correlation import pearson, spearman

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that says how well predictions fit a reference."""

    name: str
    kinds: tuple[TaskKind, ...]
    """The kinds of task it is defined for."""
    weighted: Callable[[Floats, Floats, Floats], Floats]
    """(weights (B, N), predicted (N,), reference (N,)) -> values (B,); see `classification`."""
    greater_is_better: bool = True

    def value(self, predicted_N: Floats, reference_N: Floats) -> float:
        """The value on all examples, each counted once."""
        return float(self.weighted(np.ones((1, len(reference_N))), predicted_N, reference_N)[0])


METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="accuracy", kinds=("classification",), weighted=accuracy),
        Metric(name="f1", kinds=("classification",), weighted=f1),
        Metric(name="macro_f1", kinds=("classification",), weighted=macro_f1),
        Metric(name="matthews", kinds=("classification",), weighted=matthews),
        Metric(name="pearson", kinds=("regression",), weighted=pearson),
        Metric(name="spearman", kinds=("regression",), weighted=spearman),
    )
}


def get_metric(name: str, *, kind: TaskKind | None = None) -> Metric:
    """The metric of this name.

    Raises:
        InputError: there is none, or it is not defined for tasks of the kind.
    """
    if name not in METRICS:
        raise InputError(f"There is no metric {name!r}. {near(name, METRICS)}")
    metric = METRICS[name]
    if kind is not None and kind not in metric.kinds:
        suited = ", ".join(other.name for other in METRICS.values() if kind in other.kinds)
        raise InputError(f"The metric {name} is for {' and '.join(metric.kinds)}, not for {kind}. Use {suited}.")
    return metric
