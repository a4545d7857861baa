"""What an objective is: the loss of each example, from the readout's scores and what they should be.

Shapes: B examples, C labels (1 in regression).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lmtailor.core.discovery import discovered
from lmtailor.core.typed import Variants
from lmtailor.tasks.example import TaskKind


@dataclass(frozen=True, kw_only=True)
class Objective(Variants, ABC):
    """Base of all objectives. A subclass is final and lives in a file of its own; the file's name is the objective's name."""

    soft: ClassVar[bool] = False
    """Whether it learns from distributions over the labels instead of labels."""

    @classmethod
    def variants(cls) -> Mapping[str, type[Any]]:
        """All objectives by name."""
        return discovered(Objective, alone=False)

    @property
    def over_all_words(self) -> bool:
        """Whether a text's loss needs the log-probabilities of all words, and not of the target's alone."""
        return False

    @abstractmethod
    def losses(self, scores_BC: Tensor, targets: Tensor, kind: TaskKind) -> Tensor:
        """The loss of each example (B,).

        Args:
            scores_BC: what the readout gave.
            targets: the labels (B,): indices, values in regression, or tokens of a text; if `soft`, distributions over the
                labels (B, C).
            kind: of the task.

        Raises:
            InputError: the objective has no meaning for this kind of task.
        """
