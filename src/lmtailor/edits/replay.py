"""The frozen blocks below the lowest edit, run once: their last output is kept and played back.

In encoder-decoders these are blocks of the encoder. While captured or replayed, block modules have a `forward` of their
own instance, which is removed again; nothing else changes. Blocks that share their weights (ALBERT) cannot be replayed;
an encoder with a relative position bias (T5) only whole, since its first block computes the bias for all others.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.edits.edit import Edit
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PrefixEdit, WeightEdit

_LATE = ("final_norm", "project_out")
"""Sites of a stack that act after its last block."""


def frozen_blocks(base: Base, edits: Edits, layers: Sequence[int] = ()) -> int:
    """How many of the first blocks no edit touches and no readout reads; 0 where nothing can be kept.

    Args:
        base: the model.
        edits: of the adapter.
        layers: blocks whose output is read, as Python indexes lists.
    """
    stack = base.stacks[0]
    count = len(stack.blocks)
    if len(set(stack.blocks)) < count:
        return 0
    lowest = min((_block(base, edit, count) for edit in edits), default=count)
    if stack is base.read:
        lowest = min([lowest, *((layer % count) + 1 for layer in layers)])
    return lowest if stack.positions != "relative" or lowest == count else 0


def _block(base: Base, edit: Edit, count: int) -> int:
    """The block of the first stack where an edit acts first; `count` if that is after all of them."""
    stack = base.stacks[0]
    if isinstance(edit, PrefixEdit):
        own = [base.sites[name] for name in edit.sites]
        return min((site.block or 0 for site in own if site.stack == stack.name), default=count)
    if isinstance(edit, WeightEdit):
        for number, path in enumerate(stack.blocks):
            if edit.site.startswith(f"{path}."):
                return number
        return count if edit.site in _late_parameters(base) else 0
    site = base.sites[edit.site]
    if site.stack == stack.name and site.name != "lm_head":
        return count if site.name.endswith(_LATE) else (site.block or 0)
    return count


def _late_parameters(base: Base) -> set[str]:
    """Paths of the parameters that act after the first stack's blocks, and nowhere before."""
    model = base.model
    late = [path for stack in base.stacks[1:] for path in stack.blocks]
    late += [site.module for site in base.sites.values() if site.name.endswith(_LATE)]
    early = {id(parameter) for parameter in base.trunk.parameters()}
    after = {id(parameter) for path in late for parameter in base.module(path).parameters()}
    return {path for path, parameter in model.named_parameters() if id(parameter) in after or id(parameter) not in early}


class Replay:
    """The first `count` blocks of a model's first stack."""

    def __init__(self, base: Base, count: int) -> None:
        paths = base.stacks[0].blocks
        self._lower = [base.module(path) for path in paths[:count]]
        self._upper = [base.module(path) for path in paths[count:]]
        self._kept: Tensor | None = None
        self._more = 0
        """Items that a block returns after its state (T5: position biases, which nobody asks for if all blocks are skipped)."""

    @contextlib.contextmanager
    def capturing(self) -> Iterator["Replay"]:
        """Inside, a forward runs only the lower blocks; `kept()` then gives their last output."""
        handle = self._lower[-1].register_forward_hook(self._keep)
        try:
            for block in self._upper:
                block.forward = _skip
            yield self
        finally:
            handle.remove()
            for block in self._upper:
                block.__dict__.pop("forward", None)

    def kept(self) -> Tensor:
        """The lower blocks' output in the last forward (N, T, H)."""
        assert self._kept is not None, "no forward was captured"
        out, self._kept = self._kept, None
        return out

    @contextlib.contextmanager
    def playing(self, states_NTH: Tensor) -> Iterator[None]:
        """Inside, a forward skips the lower blocks and gives these states to the first upper one."""

        def skip(hidden: Tensor, *args: object, **kwargs: object) -> object:
            return (hidden, *[None] * self._more) if self._more else hidden

        def play(hidden: Tensor, *args: object, **kwargs: object) -> object:
            return (states_NTH, *[None] * self._more) if self._more else states_NTH

        try:
            for block in self._lower[:-1]:
                block.forward = skip
            self._lower[-1].forward = play
            yield
        finally:
            for block in self._lower:
                block.__dict__.pop("forward", None)

    def _keep(self, module: object, args: object, output: Any) -> None:
        state = output[0] if isinstance(output, tuple) else output
        self._more = len(output) - 1 if isinstance(output, tuple) else 0
        self._kept = state.detach()


def _skip(hidden: Tensor, *args: object, **kwargs: object) -> Tensor:
    return hidden
