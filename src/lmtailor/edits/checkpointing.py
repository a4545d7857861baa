"""Gradient checkpointing under `attach`.

A checkpointed block runs again in the backward pass. If the edits are gone by then, it computes the base's gradient without
a word. So the function that a block is checkpointed with is wrapped while attached, and refuses to run again afterwards. Other
passes may have come between; so what attention knew of the block's own pass, what its edits drew from, and where its tokens stood
are put back while it runs again.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from lmtailor.core.errors import StateError, UnsupportedError
from lmtailor.edits.attention import ATTRIBUTE as LAYER
from lmtailor.edits.attention import Layer, Pass
from lmtailor.edits.engine import Engine

ATTRIBUTE = "_gradient_checkpointing_func"


class CheckpointGuard:
    """Wraps the checkpointing function of every block of a model."""

    def __init__(self, engine: Engine, model: nn.Module) -> None:
        self.engine = engine
        self.modules = [module for module in model.modules() if ATTRIBUTE in module.__dict__]
        self._before: list[Any] = []

    def install(self) -> None:
        """Wrap.

        Raises:
            UnsupportedError: checkpointing is reentrant, which loses gradients of the edits.
        """
        for module in self.modules:
            function = module.__dict__[ATTRIBUTE]
            if getattr(function, "keywords", {}).get("use_reentrant"):
                raise UnsupportedError(
                    "Reentrant gradient checkpointing loses the gradients of what is attached. "
                    "Call gradient_checkpointing_enable() without use_reentrant=True."
                )
        for module in self.modules:
            function = module.__dict__[ATTRIBUTE]
            self._before.append(function)
            setattr(module, ATTRIBUTE, self._guarded(module, function))

    def remove(self) -> None:
        """Unwrap."""
        for module, function in zip(self.modules, self._before, strict=False):
            setattr(module, ATTRIBUTE, function)
        self._before = []

    def _guarded(self, module: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
        engine = self.engine

        def checkpoint(block: Callable[..., Any], *args: Any) -> Any:
            if engine.recording:
                return block(*args)

            layers: list[Layer] = [m.__dict__[LAYER] for m in module.modules() if LAYER in m.__dict__]
            then, of_engine = [layer.now for layer in layers], (engine.draw, engine.shares_BT1, engine.places)

            def again(*inner: Any) -> Any:
                if not engine.alive:
                    raise StateError(
                        "Backward ran through checkpointed blocks after the adapters were detached, which would give the "
                        "gradients of the plain base. Call backward inside `with attach(...)`."
                    )
                latest = [layer.now for layer in layers]
                latest_of_engine = (engine.draw, engine.shares_BT1, engine.places)
                _set(layers, then)
                engine.draw, engine.shares_BT1, engine.places = of_engine
                try:
                    return block(*inner)
                finally:
                    _set(layers, latest)
                    engine.draw, engine.shares_BT1, engine.places = latest_of_engine

            return function(again, *args)

        return checkpoint


def _set(layers: Sequence[Layer], passes: Sequence[Pass]) -> None:
    for layer, one in zip(layers, passes, strict=True):
        layer.now = one
