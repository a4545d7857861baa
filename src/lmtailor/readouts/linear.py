"""Linear layers on hidden states, for readouts that have them.

Shapes: H features of a state.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor
from torch.nn.functional import dropout, linear

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import InputError
from lmtailor.readouts.native import initial_std


def blocks_read(base: Base, layer: int | None) -> tuple[int, ...]:
    """The number of the block whose output is read, counted from 0; none for the last states. See `Reading.layers`.

    Args:
        base: the model.
        layer: the block, as Python indexes lists.

    Raises:
        InputError: there is no such block.
    """
    blocks = len(base.read.blocks)
    if layer is None:
        return ()
    if not -blocks <= layer < blocks:
        raise InputError(f"There is no block {layer}: the model has {blocks}, numbered 0 to {blocks - 1}, or -{blocks} to -1.")
    return (layer % blocks,)


def states_read(states: States, layers: Sequence[int]) -> Tensor:
    """The states (N, T, H) of the block that is read, or the last."""
    return states.layers[layers[0]] if layers else states.last_NTH


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


def linear_scores(tensors: Mapping[str, Tensor], x: Tensor, drop: float, training: bool) -> Tensor:
    """W · dropout(x) + b in float32, for states (…, H); b where there is one."""
    return linear(dropout(x.float(), drop, training), tensors["head.weight"], tensors.get("head.bias")).float()
