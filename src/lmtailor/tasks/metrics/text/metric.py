"""What a metric of texts is.

Legend: N examples, K statistics, B weightings of the examples. Every metric here is a function of sums over examples: of matched
and counted n-grams (BLEU, NIST), of aligned words (METEOR), of scores and ones (a mean). So its value on a bootstrap sample needs
the statistics of each example once, and then one product of matrices for all samples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmtailor.core.errors import InputError

Floats = NDArray[np.float64]

References = Sequence[Sequence[str]]
"""For each example the texts that would be right, at least one."""

Rows = Callable[[Sequence[str], References], Iterator[Sequence[float]]]
"""(predictions, references) -> the K statistics of each example in turn; whoever asks may show progress."""


class ExampleError(InputError):
    """An example that a metric cannot score."""

    def __init__(self, number: int, what: str) -> None:
        """Say which.

        Args:
            number: from 1.
            what: is wrong with it, such as "has no reference. Give one."
        """
        super().__init__(f"Example {number} {what}")
        self.number, self.what = number, what


@dataclass(frozen=True, kw_only=True)
class TextMetric:
    """A number that says how well texts fit references, or what texts are like."""

    name: str
    about: str
    """What it is and whose program it agrees with, in a line."""
    rows: Rows
    """Statistics of examples, which are summed."""
    value: Callable[[Floats], Floats]
    """Sums (B, K) -> values (B,)."""
    greater_is_better: bool = True
    needs_references: bool = True
    """False: it speaks of the predictions alone, and references may be empty lists."""


def mean(sums_B2: Floats) -> Floats:
    """The mean of scores, of which the first statistic is the sum and the second the count (B,)."""
    values: Floats = sums_B2[:, 0] / sums_B2[:, 1]
    return values
