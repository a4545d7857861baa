"""The frozen blocks below the lowest edit, run once: their last output is kept and played back.

While captured or replayed, block modules have a `forward` of their own instance, which is removed again; nothing else changes.
Only models with one stack whose blocks have weights of their own can be replayed.
"""

import contextlib
from collections.abc import Iterator, Sequence

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.edits.edit import Edit
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PrefixEdit, PromptEdit, WeightEdit


def frozen_blocks(base: Base, edits: Edits, layers: Sequence[int] = ()) -> int:
    """How many of the first blocks no edit touches and no readout reads; 0 where nothing can be kept.

    Args:
        base: the model.
        edits: of the adapter.
        layers: blocks whose output is read, as Python indexes lists.
    """
    stack = base.stacks[-1]
    count = len(stack.blocks)
    if len(base.stacks) > 1 or len(set(stack.blocks)) < count:
        return 0
    lowest = min((_block(base, edit, count) for edit in edits), default=count)
    return min([lowest, *((layer % count) + 1 for layer in layers)])


def _block(base: Base, edit: Edit, count: int) -> int:
    """The block where an edit acts first; `count` if that is after all blocks."""
    if isinstance(edit, PromptEdit):
        return 0
    if isinstance(edit, PrefixEdit):
        return min(base.sites[name].block or 0 for name in edit.sites)
    if isinstance(edit, WeightEdit):
        for number, path in enumerate(base.stacks[-1].blocks):
            if edit.site.startswith(f"{path}."):
                return number
        after = [site.module for site in base.sites.values() if site.name in ("final_norm", "lm_head")]
        late = edit.site.rsplit(".", 1)[0] in after and not _is_embedding(base, edit.site)
        return count if late else 0
    site = base.sites[edit.site]
    if site.block is not None:
        return site.block
    return count if site.name in ("final_norm", "lm_head") else 0


def _is_embedding(base: Base, path: str) -> bool:
    embedding = dict(base.module(base.stacks[-1].embedding).named_parameters())
    parameter = dict(base.model.named_parameters(remove_duplicate=False)).get(path)
    return any(parameter is own for own in embedding.values())


class Replay:
    """The first `count` blocks of a one-stack model."""

    def __init__(self, base: Base, count: int) -> None:
        paths = base.stacks[-1].blocks
        self._lower = [base.module(path) for path in paths[:count]]
        self._upper = [base.module(path) for path in paths[count:]]
        self._kept: Tensor | None = None

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

        def play(hidden: Tensor, *args: object, **kwargs: object) -> Tensor:
            return states_NTH

        try:
            for block in self._lower[:-1]:
                block.forward = _skip
            self._lower[-1].forward = play
            yield
        finally:
            for block in self._lower:
                block.__dict__.pop("forward", None)

    def _keep(self, module: object, args: object, output: object) -> None:
        assert isinstance(output, Tensor), "a block of a one-stack model returns its state alone"
        self._kept = output.detach()


def _skip(hidden: Tensor, *args: object, **kwargs: object) -> Tensor:
    return hidden
