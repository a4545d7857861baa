"""What a forward of the trunk leaves behind.

Shapes: N rows, T tokens, H features.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lmtailor.base.stack import Stack
from lmtailor.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class States:
    """Hidden states of the stack that is read: the only one, or the decoder."""

    last_NTH: Tensor
    """The trunk's output, after the final norm: what the LM head reads."""
    layers: Mapping[int, Tensor] = field(default_factory=dict)
    """Outputs of the blocks that were asked for, under the numbers that were asked for, after all edits and before
    the final norm."""
    others: tuple["States", ...] = ()
    """Of rows that ran several times, for the members of a mixture: the states of the second run, the third, … Rows that ran
    less often repeat one of theirs."""

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "States":
        """The states after a change of every tensor (N, T, H)."""
        return States(
            last_NTH=change(self.last_NTH),
            layers={number: change(layer) for number, layer in self.layers.items()},
            others=tuple(other.mapped(change) for other in self.others),
        )

    def select(self, rows: Sequence[int], count: int) -> "States":
        """The states of some rows of a batch.

        Args:
            rows: numbers of rows.
            count: how many rows the batch has; each has N / count consecutive sequences.
        """
        return self.mapped(lambda x: x.reshape(count, -1, *x.shape[1:])[list(rows)].flatten(0, 1))


@contextmanager
def captured(model: nn.Module, stack: Stack, layers: Sequence[int]) -> Iterator[Mapping[int, Tensor]]:
    """Keep the outputs of blocks during one forward.

    The hooks stand last, so they see what edits made of the outputs. Where blocks share weights, calls are counted.
    Of several passes, such as that of a prompt before the input's own, the last one's outputs are kept.

    Args:
        model: holds the stack.
        stack: whose blocks.
        layers: numbers of blocks, as Python indexes lists.

    Raises:
        InputError: there is no such block.
    """
    count = len(stack.blocks)
    for layer in layers:
        if not -count <= layer < count:
            raise InputError(f"There is no block {layer}: the model has {count}, numbered 0 to {count - 1}, or -{count} to -1.")
    asked: dict[int, list[int]] = {}
    for layer in layers:
        asked.setdefault(layer % count, []).append(layer)
    kept: dict[int, Tensor] = {}
    calls = {path: [number for number, block in enumerate(stack.blocks) if block == path] for path in stack.blocks}
    with ExitStack() as hooks:
        for path, numbers in calls.items():
            if asked.keys().isdisjoint(numbers):
                continue
            order = itertools.cycle(numbers)

            def keep(module: nn.Module, args: Any, output: Any, order: Iterator[int] = order) -> None:
                for name in asked.get(next(order), ()):
                    kept[name] = output[0] if isinstance(output, tuple) else output

            hooks.callback(model.get_submodule(path).register_forward_hook(keep).remove)
        yield kept
