"""Optimizers and learning-rate schedules."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers.optimization import Adafactor

from lmtailor.fit.training import Training


def make_optimizer(
    parameters: Mapping[str, Tensor], training: Training, rates: Mapping[str, float] = MappingProxyType({})
) -> Optimizer:
    """AdamW, or Adafactor with a fixed learning rate (Shazeer and Stern 2018, without relative steps: as in Lester et al. 2021).

    Args:
        parameters: what is trained, by name; the order is that of the mapping.
        training: resolved.
        rates: name → factor of the learning rate; 1 where there is none.
    """
    by_setting: dict[tuple[bool, float], list[Tensor]] = {}
    for name, tensor in parameters.items():
        by_setting.setdefault((tensor.ndim >= 2, rates.get(name, 1.0)), []).append(tensor)
    groups: list[dict[str, Any]] = [
        {"params": tensors, "weight_decay": training.weight_decay if decays else 0.0, "factor": factor}
        for (decays, factor), tensors in sorted(by_setting.items(), key=lambda item: (not item[0][0], item[0][1]))
    ]
    lr = training.lr
    assert lr is not None
    if training.optimizer == "adafactor":
        return Adafactor(  # type: ignore[no-untyped-call]
            groups, lr=lr, scale_parameter=False, relative_step=False, warmup_init=False
        )
    return torch.optim.AdamW(groups, lr=lr)


def learning_rate(step: int, total: int, training: Training) -> float:
    """The learning rate of a step, counted from 0."""
    lr, warmup = training.lr or 0.0, round((training.warmup or 0.0) * total)
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, total - warmup)
    if training.schedule == "linear":
        return lr * (1 - share)
    if training.schedule == "cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * share))
    return lr


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the rate of all groups, each by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def pack_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as tensors by name and plain numbers by name."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                numbers[f"{index}.{key}"] = value
    return tensors, numbers


def unpack_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Undo `pack_optimizer` on a fresh optimizer of the same parameters."""
    packed = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **numbers}.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**packed, "state": state})
