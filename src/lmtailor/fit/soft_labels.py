"""Soft labels: for each training example a distribution over the labels, which another model gave.

Shapes: B training examples, C labels.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lmtailor.core.errors import InputError, near
from lmtailor.objectives.objective import Objective
from lmtailor.tasks.task import Task

SoftLabels = Mapping[str, Sequence[float]]
"""Name of a training example → the probability of each label, in the order of the task's labels."""

_SLACK = 1e-3
"""How far a sum of probabilities may be from 1; they are divided by it."""


def soft_targets(task: Task, objective: Objective, soft_labels: SoftLabels | None) -> Tensor | None:
    """What the training examples should be answered, (B, C) in their order; None for objectives that learn from labels.

    Raises:
        InputError: soft labels are missing, not asked for, no distributions, or of examples that are not in train; labels are
            missing; or the task is none of classification.
    """
    name = objective.variant_name()
    if not objective.soft:
        if soft_labels is not None:
            raise InputError(f"The objective {name} learns from labels, so soft labels would have no effect. Use distillation.")
        if not task.split("train").labelled:
            raise InputError(f"The objective {name} learns from labels, and some examples of {task.name}'s train have none.")
        return None
    if task.kind != "classification":
        raise InputError(
            f"The objective {name} learns from one distribution over labels an example, and {task.kind} has none. Use supervised."
        )
    if soft_labels is None:
        raise InputError(f"The objective {name} learns from soft labels: give them (soft_labels=…) for every example of train.")
    ids = [example.id for example in task.split("train")]
    strange = sorted(set(soft_labels) - set(ids))
    if strange:
        raise InputError(f"There are soft labels for {strange[0]!r}, which is no example of train. {near(strange[0], ids)}")
    return torch.stack([_distribution(one, soft_labels, task) for one in ids])


def soft_digest(targets_BC: Tensor | None) -> str | None:
    """SHA-256 of soft labels, in hexadecimal; None where there are none."""
    return None if targets_BC is None else hashlib.sha256(targets_BC.numpy().tobytes()).hexdigest()


def _distribution(name: str, soft_labels: SoftLabels, task: Task) -> Tensor:
    if name not in soft_labels:
        raise InputError(f"The example {name!r} of train has no soft label; every example needs one.")
    q_C = torch.tensor(list(soft_labels[name]), dtype=torch.float64)
    if len(q_C) != len(task.labels) or not bool((q_C >= 0).all()) or not abs(float(q_C.sum()) - 1) <= _SLACK:
        raise InputError(
            f"The soft label of {name!r} is {[round(value, 4) for value in q_C.tolist()]}; it must be a distribution over the "
            f"{len(task.labels)} labels {', '.join(task.labels)}: probabilities that add to 1."
        )
    return (q_C / q_C.sum()).float()
