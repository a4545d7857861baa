"""Readings of which all that is trained acts on features of the states, so that on a frozen trunk these are computed once.

Shapes: M answer units of a batch, H features, C labels.
"""

from abc import ABC, abstractmethod

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.readouts.batch import Batch


class Featured(ABC):
    """A reading whose scores are a function of features, one row each an answer unit: `scores = scores_from(features)`."""

    @abstractmethod
    def features(self, base: Base, states: States, batch: Batch) -> Tensor:
        """The features (M, H), float32. Nothing trained here comes before them: of a frozen trunk they can be kept."""

    @abstractmethod
    def scores_from(self, features_MH: Tensor, *, training: bool = False) -> Tensor:
        """Scores (M, C) of features; with `training` dropout acts."""
