"""What a fit is asked to do, for one adapter."""

from dataclasses import dataclass

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.fit.training import Training
from lmtailor.fit.unlabelled import Unlabelled
from lmtailor.objectives.objective import Objective
from lmtailor.store.adapter import Adapter
from lmtailor.tasks.task import Task
from lmtailor.tasks.watched import Watched


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be fitted, and how."""

    base: Base
    task: Task
    start: Adapter
    """At its start; it needs a readout."""
    objective: Objective
    training: Training
    """Resolved: nothing in it is None that a recipe could fill."""
    seed: int
    soft_BC: Tensor | None = None
    """For objectives that ask for them: soft labels of the training examples, in their order."""
    unlabelled: Unlabelled | None = None
    """Language modelling beside the objective."""
    watched: tuple[Watched, ...] = ()
    """Held-out tasks that are asked as the fit goes."""
    name: str = ""
    """What events call it where several are fitted together."""
