"""Distillation: a model learns what another one, or several, hold to be probable.

    L = T² · KL(q_T ‖ p_T),   p_T = softmax(s / T),   q_T = softmax(log q / T)

with s the scores and q the soft labels. Of soft labels that are a softmax of logits z, q_T is softmax(z / T). The factor T² keeps
the gradient's size, which falls as 1/T². Hinton et al. 2015, arXiv:1503.02531, section 2; PET takes T = 2 (Schick & Schütze 2021,
arXiv:2001.07676, section 3.3).

Shapes: B examples, C labels.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from lmtailor.core.errors import InputError
from lmtailor.objectives.objective import Objective
from lmtailor.tasks.example import TaskKind


@dataclass(frozen=True, kw_only=True)
class Distillation(Objective):
    """T² · KL(q_T ‖ p_T) to soft labels."""

    soft: ClassVar[bool] = True

    temperature: float = 2.0
    """T: above 1 the labels that are less probable count for more."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"temperature is {self.temperature}; it must be greater than 0.")

    def losses(self, scores_BC: Tensor, targets: Tensor, kind: TaskKind) -> Tensor:
        """See `Objective.losses`. The targets are probabilities; a label of probability 0 keeps it at every temperature.

        Raises:
            InputError: a kind of task without labels to have a distribution over.
        """
        if kind != "classification":
            raise InputError(f"Distillation learns from distributions over labels, and {kind} has no labels. Use supervised.")
        log_p_BC = F.log_softmax(scores_BC / self.temperature, -1)
        q_BC = F.softmax(targets.log() / self.temperature, -1)
        return self.temperature**2 * F.kl_div(log_p_BC, q_BC, reduction="none").sum(-1)
