"""Functions of the papers' formulas in NumPy."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmtailor.edits.edit import Context
from lmtailor.edits.kinds import HiddenEdit

ACTIVATIONS: dict[str, Any] = {
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def layer_norm(x: Any, gain: Any, shift: Any, eps: float) -> Any:
    """(x - mean) / √(variance + ε) · gain + shift, over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * gain + shift


def numbers(edit: Any) -> dict[str, Any]:
    """An edit's tensors in double precision."""
    return {name: tensor.detach().double().numpy() for name, tensor in edit.trained().items()}


def hidden(edit: HiddenEdit, h: Tensor, x: Tensor | None = None, residual: Tensor | None = None, norm: Any = None) -> Any:
    """What an edit makes of states (rows, tokens, features) of one adapter, outside of training."""
    stacked = type(edit).stack([edit], dtype=torch.float32)
    flat = [None if value is None else value.reshape(1, -1, value.shape[-1]) for value in (x, h, residual)]
    return stacked.hidden(flat[0], flat[1], flat[2], norm, Context(training=False)).view(h.shape).numpy()  # type: ignore[arg-type]
