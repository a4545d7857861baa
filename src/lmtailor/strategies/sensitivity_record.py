"""What a sensitivity study found: every point with its answers, and what they say of templates.

A point is one prompt: a template with one set of demonstrations in one order, before and after calibration. Quartiles,
best and worst are over points. Intervals are over points and documents: they say how far a mean would move with other
demonstrations and other documents of the same kind.

Shapes: S points, N documents.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from lmtailor.core.errors import InputError
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.tasks.metrics import Score, get_metric, paired_difference
from lmtailor.tasks.metrics.means import mean_scores

Side = Literal["before", "after"]
"""Before or after calibration."""

_RESAMPLES = 1000
_FOR_EACH_TEST = 200
"""Resamples of a table's tests for each of its tests: p is at least 2 / resamples, and is multiplied by their number."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One prompt, and what the model answered behind it."""

    template: str
    seed: int
    set: int
    """Number of the set of demonstrations, from 0."""
    order: int
    """Number of the order, from 0, which is as drawn."""
    before: tuple[int, ...]
    """The answered labels' indices, a document each."""
    after: tuple[int, ...] | None = None
    """Likewise after calibration; None if nothing was calibrated."""
    shares: tuple[float, ...] | None = None
    """What the model answers to inputs without content: the mean probability of each label."""
    cut: int = 0
    """Documents that lost their end."""
    seconds: float = 0.0

    def answers(self, side: Side) -> tuple[int, ...]:
        """The answers before or after calibration."""
        found = self.before if side == "before" else self.after
        assert found is not None, "a side that was not measured"
        return found


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A template as it was asked."""

    pattern: str
    words: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the points of one template, or all points, say."""

    template: str | None
    """None: all."""
    points: int
    mean: Score
    deviation: float
    """Standard deviation over points, of a sample."""
    worst: float
    lower: float
    """The first quartile."""
    median: float
    upper: float
    """The third quartile."""
    best: float
    values: tuple[float, ...]
    """Of each point, in the order of the study."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two templates on the same documents, or one before and after calibration."""

    first: str
    second: str
    difference: float
    """The first's mean less the second's."""
    low: float
    high: float
    """Ends of its bootstrap interval over documents."""
    p: float
    """Two-sided; see `paired_difference`."""
    adjusted: float
    """p after Holm 1979, over all comparisons of its table."""


@dataclass(frozen=True, kw_only=True)
class SensitivityRecord:
    """A whole study, as its file has it."""

    task: str
    split: str
    metric: str
    labels: tuple[str, ...]
    reference: tuple[int, ...]
    """The documents' labels."""
    templates: Mapping[str, Asked]
    points: tuple[Point, ...]
    settings: Mapping[str, str]
    """How it was made, as text: base, demonstrations, seeds, versions."""
    notes: tuple[str, ...] = ()

    @property
    def sides(self) -> tuple[Side, ...]:
        """before, and after if it was calibrated."""
        return ("before", "after") if all(point.after is not None for point in self.points) else ("before",)

    def summary(self, side: Side, template: str | None = None) -> Summary:
        """What one template's points say, or all.

        Args:
            side: before or after calibration.
            template: its name; None: all.
        """
        return self._summaries[side, template]

    @cached_property
    def _summaries(self) -> dict[tuple[Side, str | None], Summary]:
        return {
            (side, name): self._summarised(side, name)
            for side in self.sides
            for name in (*self.templates, None)
            if any(name in (None, point.template) for point in self.points)
        }

    def _summarised(self, side: Side, template: str | None) -> Summary:
        rows_SN = self._rows(side, template)
        values_S = [get_metric(self.metric).value(row, np.asarray(self.reference, dtype=np.float64)) for row in rows_SN]
        lower, median, upper = np.quantile(values_S, (0.25, 0.5, 0.75))
        return Summary(
            template=template,
            points=len(values_S),
            mean=mean_scores([self.metric], rows_SN, self.reference, resamples=_RESAMPLES)[self.metric],
            deviation=float(np.std(values_S, ddof=1)) if len(values_S) > 1 else 0.0,
            worst=min(values_S),
            lower=float(lower),
            median=float(median),
            upper=float(upper),
            best=max(values_S),
            values=tuple(values_S),
        )

    def _rows(self, side: Side, template: str | None) -> Any:
        """Answers (S, N)."""
        points = [point for point in self.points if template in (None, point.template)]
        return np.array([point.answers(side) for point in points], dtype=np.float64)

    def between_templates(self, side: Side) -> tuple[Difference, ...]:
        """Every pair of templates: paired tests over documents of their means over points."""
        return self._between[side]

    @cached_property
    def _between(self) -> dict[Side, tuple[Difference, ...]]:
        pairs = list(combinations(self.templates, 2))
        return {side: self._tested([((side, one), (side, other)) for one, other in pairs]) for side in self.sides}

    def by_calibration(self) -> tuple[Difference, ...]:
        """Every template after calibration against itself before."""
        if len(self.sides) < 2:
            return ()
        return self._tested([(("after", name), ("before", name)) for name in self.templates])

    def _tested(self, pairs: Sequence[tuple[tuple[Side, str], tuple[Side, str]]]) -> tuple[Difference, ...]:
        reference, resamples = np.array(self.reference), max(_RESAMPLES, _FOR_EACH_TEST * len(pairs))
        found = []
        for one, other in pairs:
            a, b = (self._rows(*which).astype(np.int64) for which in (one, other))
            found.append((one[1], other[1], paired_difference(self.metric, a, b, reference, resamples=resamples)))
        adjusted = holm([test.p for _, _, test in found])
        return tuple(
            Difference(
                first=one, second=other, difference=test.difference, low=test.low, high=test.high, p=test.p, adjusted=corrected
            )
            for (one, other, test), corrected in zip(found, adjusted, strict=True)
        )

    def frame(self) -> pd.DataFrame:
        """One row a point and side."""
        rows = []
        for side in self.sides:
            values = self.summary(side).values
            for point, value in zip(self.points, values, strict=True):
                rows.append(
                    {"template": point.template, "seed": point.seed, "set": point.set, "order": point.order}
                    | {"calibration": side, self.metric: value, "seconds": point.seconds}
                )
        return pd.DataFrame(rows)

    def to_mapping(self) -> dict[str, Any]:
        """As JSON has it: the study, and under "summary" what it says."""
        told: dict[str, Any] = {}
        for side in self.sides:
            told[side] = {
                "overall": to_mapping(self.summary(side)),
                "templates": [to_mapping(self.summary(side, name)) for name in self.templates],
                "between_templates": [to_mapping(one) for one in self.between_templates(side)],
            }
        told["by_calibration"] = [to_mapping(one) for one in self.by_calibration()]
        return {**to_mapping(self), "summary": told}


def read_sensitivity(path: str | Path) -> SensitivityRecord:
    """A study from its file.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        values = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as a sensitivity study: {error}.") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} is no sensitivity study.")
    kept = {key: value for key, value in values.items() if key != "summary"}
    record = from_mapping(SensitivityRecord, kept, source=str(path))
    n = len(record.reference)
    if not record.points or any(len(point.answers(side)) != n for point in record.points for side in record.sides):
        raise InputError(f"{path} is damaged: its points do not have one answer for each of the {n} documents.")
    return record


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down rule: max over the smaller ones of (m − rank) · p, at most 1."""
    order = sorted(range(len(ps)), key=lambda index: ps[index])
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted
