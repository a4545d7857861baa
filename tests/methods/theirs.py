"""PEFT's models, for parity."""

import warnings
from typing import Any

import peft
from torch import nn


def wrapped(model: nn.Module, config: peft.PeftConfig) -> Any:
    """PEFT's model around a transformers model, in eval mode."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return peft.get_peft_model(model, config).eval()
