"""Supervised losses on a readout's scores.

A text's scores are the log-probabilities of its target tokens, or of all words in their places. Each word that gets a tag has a
cross-entropy of its own, and each of the two ends of a span.

Shapes: B examples, C labels.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from lmtailor.core.errors import InputError
from lmtailor.objectives.objective import Objective
from lmtailor.tasks.example import TaskKind


@dataclass(frozen=True, kw_only=True)
class Supervised(Objective):
    """Cross-entropy over the labels' scores, −Σ_y q_y log softmax(s)_y with q smoothed; mean squared error in regression."""

    label_smoothing: float = 0.0
    """Share of the probability that is spread over all labels (Szegedy et al. 2016, section 7); over all words, in a text."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise InputError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and less than 1.")

    @property
    def over_all_words(self) -> bool:
        """Whether a text's loss needs the log-probabilities of all words."""
        return self.label_smoothing > 0

    def losses(self, scores_BC: Tensor, targets: Tensor, kind: TaskKind) -> Tensor:
        """See `Objective.losses`.

        Raises:
            InputError: label smoothing in regression, where it has no meaning, or of a span, whose choices are places of a text.
        """
        if kind == "generation" and scores_BC.shape[1] == 1:
            return -scores_BC[:, 0]
        if kind == "regression":
            if self.label_smoothing:
                raise InputError("label_smoothing has no meaning in regression; leave it at 0.")
            return F.mse_loss(scores_BC[:, 0], targets.float(), reduction="none")
        if kind == "span" and self.label_smoothing:
            raise InputError("label_smoothing has no meaning for the ends of a span; leave it at 0.")
        return F.cross_entropy(scores_BC, targets.long(), reduction="none", label_smoothing=self.label_smoothing)
