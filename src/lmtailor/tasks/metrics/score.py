"""What a measurement says: a value, the number of examples, and how far chance may move it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lmtailor.core.errors import InputError
from lmtailor.core.settings import from_mapping, to_mapping


@dataclass(frozen=True, kw_only=True)
class Score:
    """The value of one metric on one split."""

    metric: str
    value: float
    n: int
    """Number of examples."""
    low: float
    """Lower end of the bootstrap interval."""
    high: float
    """Upper end of the bootstrap interval."""

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4f} [{self.low:.4f}, {self.high:.4f}] (n = {self.n})"


class Scores(Mapping[str, Score]):
    """The scores on one split by metric, the metric that ranks runs first. Immutable."""

    def __init__(self, scores: Iterable[Score]) -> None:
        self._by_metric = {score.metric: score for score in scores}

    def __getitem__(self, metric: str) -> Score:
        return self._by_metric[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_metric)

    def __len__(self) -> int:
        return len(self._by_metric)

    def __repr__(self) -> str:
        return f"Scores({', '.join(map(str, self.values()))})"

    def to_mapping(self) -> dict[str, object]:
        """A dictionary that JSON holds exactly."""
        return {
            metric: {key: value for key, value in to_mapping(score).items() if key != "metric"} for metric, score in self.items()
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, object], *, path: str = "scores") -> "Scores":
        """The inverse of `to_mapping`.

        Args:
            values: metric -> value, n, low and high.
            path: where the table stands, for messages.

        Raises:
            InputError: something is missing, unknown or of another type.
        """
        scores = []
        for metric, score in values.items():
            if not isinstance(score, Mapping):
                raise InputError(f"{path}.{metric} must be a table with value, n, low and high; found {score!r}.")
            scores.append(from_mapping(Score, {**score, "metric": metric}, path=f"{path}.{metric}"))
        return cls(scores)


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """How two systems differ on the same examples."""

    metric: str
    difference: float
    """The metric of the first system less that of the second, each averaged over its seeds."""
    low: float
    """Lower end of the difference's bootstrap interval."""
    high: float
    """Upper end of the difference's bootstrap interval."""
    p: float
    """Two-sided bootstrap p-value of no difference."""
    n: int
    """Number of examples."""
