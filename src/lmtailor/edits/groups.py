"""Which rows of a batch are computed together at one site.

Each row's edits act in their order. Rows that have an edit of the same `stack_key` in the same place of that
order form a group: one batched call with stacked tensors, not a loop over adapters.

Shapes: R rows of the batch, G rows of a group, T tokens of a row, F features.
"""

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lmtailor.core.errors import InputError
from lmtailor.edits.edit import Edit, counters_of, freshness


@dataclass(frozen=True)
class Rows:
    """The rows of a batch: the adapter (slot) of each, or None. `shared`: one adapter serves all rows, whatever their number."""

    slots: tuple[int | None, ...]
    shared: bool = False
    copies: tuple[int, ...] = ()
    """Where mixtures are attached: for each row of the caller, how many of `slots`, one after the other, are its members."""

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

    def spans(self) -> list[tuple[int, int]]:
        """For each row of the caller, the first of its `slots` and the one behind its last."""
        ends = list(itertools.accumulate(self.copies or (1,) * self.count))
        return list(zip([0, *ends], ends, strict=False))

    def repeated(self, x: Tensor) -> Tensor:
        """What the caller gives for its sequences (R · k, …), once for each member: (E · k, …)."""
        if not self.copies:
            return x
        blocks = x.reshape(len(self.copies), -1, *x.shape[1:])
        return blocks.repeat_interleave(torch.tensor(self.copies, device=x.device), 0).flatten(0, 1)


class Group:
    """Edits that are computed in one call, each for its rows."""

    def __init__(self, edits: Sequence[Edit], slot_of_row: Sequence[int], rows: Sequence[int], *, whole: bool) -> None:
        """Note who is who.

        Args:
            edits: solo edits of one key.
            slot_of_row: for each row of the group, the index of its edit.
            rows: the group's rows in the batch.
            whole: whether these are all rows of the batch, in order.
        """
        self.edits = tuple(edits)
        self._slot_of_row = None if list(slot_of_row) == list(range(len(edits))) else tuple(slot_of_row)
        self._rows = tuple(rows)
        self._whole = whole
        self._tensors = tuple(tensor for edit in edits for tensor in edit.tensors)
        self._counters = counters_of(self._tensors)
        self._index: Tensor | None = None
        self._stacked: Edit | None = None
        self._made_for: Hashable = None

    def stacked(self, dtype: torch.dtype) -> Edit:
        """The edit with tensors (G, …), or (1, …) where all rows of the group share one.

        It is made anew when it is no longer fresh, and whenever a gradient must flow through the stacking.
        """
        key, live = freshness(self._tensors, self._counters)
        if self._stacked is None or key != self._made_for or (live and len(self.edits) > 1):
            stacked = type(self.edits[0]).stack(self.edits, dtype=dtype)
            if len(self.edits) > 1 and self._slot_of_row is not None:
                device = self._tensors[0].device if self._tensors else None
                stacked = stacked.take(torch.tensor(self._slot_of_row, device=device))
            self._stacked, self._made_for = stacked, key
        return self._stacked

    def apply(self, values: Sequence[Tensor], call: "Call", dtype: torch.dtype) -> Tensor:
        """The first of the batch's states (R, T, F), edited in the group's rows."""
        first = values[0]
        if not self._whole:
            if self._index is None or self._index.device != first.device:
                with torch.inference_mode(mode=False):  # else autograd refuses it later
                    self._index = torch.tensor(self._rows, device=first.device)
            index = self._index
            values = [value.index_select(0, index) for value in values]
        count = values[0].shape[0]
        folds = count > 1 and len(self.edits) == 1
        if folds:
            values = [value.reshape(1, -1, value.shape[-1]) for value in values]
        out = call(self.stacked(dtype), values)
        if folds:
            out = out.reshape(count, -1, out.shape[-1])
        return out if self._whole else first.index_copy(0, index, out.to(first.dtype))


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
        shape = values[0].shape
        current, *rest = [self.rows.view(value) for value in values]
        for stage in self.stages:
            for group in stage:
                if wanted is None or wanted(group.edits[0]):
                    current = group.apply((current, *rest), call, dtype)
        return current.reshape(shape[:-1] + current.shape[-1:])


@dataclass
class _Gathered:
    """A group while its rows are found."""

    edits: list[Edit] = field(default_factory=list)
    slot_of_row: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def group(self, count: int) -> Group:
        """The group, in a batch of so many rows.

        Where every row has an edit of its own, the edits are put in the order of their tensors' addresses, for it is cheaper to
        permute states than tensors, and tensors that lie in order may be stacked without a copy.
        """
        if len(self.edits) == len(self.rows) > 1:
            place = [edit.tensors[0].data_ptr() if edit.tensors else 0 for edit in self.edits]
            order = sorted(range(len(place)), key=place.__getitem__)
            self.edits, self.rows = [self.edits[i] for i in order], [self.rows[i] for i in order]
        return Group(self.edits, self.slot_of_row, self.rows, whole=self.rows == list(range(count)))


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
        groups: dict[object, _Gathered] = {}
        index: dict[tuple[object, int], int] = {}
        for row, slot in enumerate(rows.slots):
            if slot is None or len(per_slot[slot]) <= level:
                continue
            edit = per_slot[slot][level]
            key = edit.stack_key()
            group = groups.setdefault(key, _Gathered())
            if (key, slot) not in index:
                index[key, slot] = len(group.edits)
                group.edits.append(edit)
            group.slot_of_row.append(index[key, slot])
            group.rows.append(row)
        stages.append(tuple(one.group(rows.count) for one in groups.values()))
    return SitePlan(tuple(stages), rows)
