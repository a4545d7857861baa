"""Which rows of a batch are computed together at one site.

Each row's edits act in their order. Rows that have an edit of the same `stack_key` in the same place of that
order form a group: one batched call with stacked tensors, not a loop over adapters.

Shapes: R rows of the batch, G rows of a group, T tokens of a row, F features.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lmtailor.core.errors import InputError
from lmtailor.edits.edit import Edit, freshness


@dataclass(frozen=True)
class Rows:
    """The rows of a batch: the adapter (slot) of each, or None. `shared`: one adapter serves all rows, whatever their number."""

    slots: tuple[int | None, ...]
    shared: bool = False

    @property
    def count(self) -> int:
        """Number of rows, 1 where they share one adapter."""
        return len(self.slots)

    def view(self, x: Tensor) -> Tensor:
        """States of any leading shape as (R, tokens, features); row-major, so beams and flattened tokens fall to their row."""
        if not self.shared and x.numel() // x.shape[-1] % self.count:
            raise InputError(
                f"A batch of shape {tuple(x.shape)} cannot be divided into the {self.count} rows that were attached."
            )
        return x.reshape(self.count, -1, x.shape[-1])


@dataclass
class Group:
    """Edits that are computed in one call, each for its rows."""

    edits: list[Edit] = field(default_factory=list)
    slot_of_row: list[int] = field(default_factory=list)
    """For each row of the group, the index of its edit."""
    rows: list[int] = field(default_factory=list)
    """The group's rows in the batch."""
    _stacked: Edit | None = None
    _made_for: Hashable = None

    def stacked(self, dtype: torch.dtype) -> Edit:
        """The edit with tensors (G, …), or (1, …) where all rows of the group share one.

        It is made anew when it is no longer fresh, and whenever a gradient must flow through the stacking.
        """
        tensors = [tensor for edit in self.edits for tensor in edit.trained().values()]
        key, live = freshness(tensors)
        if self._stacked is None or key != self._made_for or (live and len(self.edits) > 1):
            stacked = type(self.edits[0]).stack(self.edits, dtype=dtype)
            if len(self.edits) > 1 and self.slot_of_row != list(range(len(self.edits))):
                device = tensors[0].device if tensors else None
                stacked = stacked.take(torch.tensor(self.slot_of_row, device=device))
            self._stacked, self._made_for = stacked, key
        assert self._stacked is not None
        return self._stacked


Call = Callable[[Edit, Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class SitePlan:
    """All edits of one site, in stages: a row's first edit is in stage 0, its second in stage 1, …"""

    stages: tuple[tuple[Group, ...], ...]
    rows: Rows

    @property
    def edits(self) -> list[Edit]:
        """Every edit of the plan."""
        return [edit for stage in self.stages for group in stage for edit in group.edits]

    def run(
        self, values: Sequence[Tensor], call: Call, *, dtype: torch.dtype, wanted: Callable[[Edit], bool] | None = None
    ) -> Tensor:
        """Apply every stage in turn.

        Args:
            values: states of equal leading shape; the first is the one that is edited, the others go along.
            call: what to compute with a stacked edit and its rows' states (G, T, F).
            dtype: of the stacked tensors.
            wanted: skip edits of which this is false.
        """
        edited = values[0]
        shape = edited.shape
        rows = [self.rows.view(value) for value in values]
        current, rest = rows[0], rows[1:]
        for stage in self.stages:
            for group in stage:
                if wanted is None or wanted(group.edits[0]):
                    current = _apply(group, [current, *rest], call, dtype)
        return current.reshape(shape[:-1] + current.shape[-1:])


def _apply(group: Group, values: Sequence[Tensor], call: Call, dtype: torch.dtype) -> Tensor:
    whole = len(group.rows) == values[0].shape[0]
    index = None if whole else torch.tensor(group.rows, device=values[0].device)
    chosen = [value if index is None else value.index_select(0, index) for value in values]
    stacked = group.stacked(dtype)
    count = chosen[0].shape[0]
    if len(group.edits) == 1 and count > 1:
        chosen = [value.reshape(1, -1, value.shape[-1]) for value in chosen]
    out = call(stacked, chosen)
    out = out.reshape(count, -1, out.shape[-1])
    return out if index is None else values[0].index_copy(0, index, out.to(values[0].dtype))


def plan_site(per_slot: Sequence[Sequence[Edit]], rows: Rows) -> SitePlan | None:
    """Group the edits that each adapter has at one site; None where no row has any.

    Args:
        per_slot: for each adapter, its edits at the site in order.
        rows: the batch.
    """
    depth = max((len(per_slot[slot]) for slot in rows.slots if slot is not None), default=0)
    if depth == 0:
        return None
    stages = []
    for level in range(depth):
        groups: dict[object, Group] = {}
        index: dict[tuple[object, int], int] = {}
        for row, slot in enumerate(rows.slots):
            if slot is None or len(per_slot[slot]) <= level:
                continue
            edit = per_slot[slot][level]
            key = edit.stack_key()
            group = groups.setdefault(key, Group())
            if (key, slot) not in index:
                index[key, slot] = len(group.edits)
                group.edits.append(edit)
            group.slot_of_row.append(index[key, slot])
            group.rows.append(row)
        stages.append(tuple(groups.values()))
    return SitePlan(tuple(stages), rows)
