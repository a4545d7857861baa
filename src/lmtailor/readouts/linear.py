"""Linear layers on hidden states, for readouts that have them.

Shapes: H features of a state.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.readouts.native import initial_std


def block_number(base: Base, layer: int | None) -> int | None:
    """The number of a block whose output is read, counted from 0; None for the last states.

    Args:
        base: the model.
        layer: the block, as Python indexes lists.

    Raises:
        InputError: there is no such block.
    """
    blocks = len(base.read.blocks)
    if layer is None:
        return None
    if not -blocks <= layer < blocks:
        raise InputError(f"There is no block {layer}: the model has {blocks}, numbered 0 to {blocks - 1}, or -{blocks} to -1.")
    return layer % blocks


def state_width(base: Base, layer: int | None) -> int:
    """H of the states that are read."""
    return base.output_size if layer is None else base.hidden_size


def linear_tensors(
    base: Base, shapes: Mapping[str, tuple[int, int]], rng: Generator | None, *, bias: bool = True
) -> dict[str, Tensor]:
    """Weights and biases of new layers: normal with the family's `initializer_range`, and zero.

    Args:
        base: the model.
        shapes: name of a layer → features out and in.
        rng: where random numbers come from; None gives shapes without memory (device "meta").
        bias: whether the layers have biases.

    Returns:
        `NAME.weight` and `NAME.bias`, leaves that require gradients.
    """
    std = initial_std(base.trunk.config.to_dict())
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        weight = torch.empty(shape, device="cpu" if rng else "meta")
        tensors[f"{name}.weight"] = weight if rng is None else weight.normal_(std=std, generator=rng)
        if bias:
            tensors[f"{name}.bias"] = torch.zeros(shape[0], device=weight.device)
    return {name: (value if rng is None else value.to(base.device)).requires_grad_() for name, value in tensors.items()}
