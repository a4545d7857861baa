"""Sequences with equal beginnings as one row: the tokens of their tree, each once.

A token sees the tokens on its own path from the root, and its position is its depth, so its state under causal attention is
what it is in a row of its own. The sequences of one example, which differ in the last few tokens, so cost little more than one.

Shapes: N sequences, T tokens, R packed rows, P tokens of a packed row, H features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.rope import rope_depends_on_batch
from lmtailor.base.states import States
from lmtailor.edits.attention import IMPLEMENTATIONS
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PlacedEdit, PrefixEdit, PromptEdit

WORTH = 0.8
"""Packed rows are run if they have at most this share of the plain rows' tokens, padding included."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """Sequences as trees."""

    inputs: Mapping[str, Tensor]
    """The trunk's arguments: ids and positions (R, P), and what each token sees (R, 1, P, P), added to attention's scores."""
    row_N: Tensor
    """The packed row of each sequence."""
    place_NT: Tensor
    """The place of each of its tokens there; 0 for padding."""

    def spread(self, states: States) -> States:
        """The states of the sequences (N, T, H), from those of the packed rows."""
        return states.mapped(lambda packed_RPH: packed_RPH[self.row_N[:, None], self.place_NT])


def by_position(base: Base, edits: Edits) -> bool:
    """Whether a token's state is a function of the tokens before it and of its position alone, so that it may stand elsewhere.

    It is not where attention sees what follows, where a position cannot be given, where a rotary embedding depends on the
    longest sequence of the batch, where an edit asks where in its sequence a token or the answer stands, and where rows run
    several times (a mixture).
    """
    stack = base.read
    if len(base.stacks) > 1 or not stack.causal or stack.positions not in ("argument", "mask"):
        return False
    asks = any(isinstance(edit, PlacedEdit) for edit in edits)
    infix = any(isinstance(edit, PrefixEdit | PromptEdit) and edit.place == "infix" for edit in edits)
    return not (asks or infix or edits.mixed or rope_depends_on_batch(base.trunk.config))


def packs(base: Base, edits: Edits, longest: int) -> bool:
    """Whether sequences may be packed: besides `by_position`, attention takes a mask, and no window, which counts columns.

    Args:
        base: the model.
        edits: what is attached.
        longest: positions of the longest sequence, what stands before it included.
    """
    return (
        by_position(base, edits)
        and base.trunk.config._attn_implementation in (*IMPLEMENTATIONS, *IMPLEMENTATIONS.values())
        and all(window >= longest for window in _windows(base))
    )


def _windows(base: Base) -> list[int]:
    """The windows of the attentions that have one (tokens)."""
    found = [site.attention.window for site in base.sites.values() if site.attention is not None]
    return [window for window in found if window is not None]


def pack(inputs: Mapping[str, Tensor], sizes: Sequence[int], dtype: torch.dtype) -> Packed | None:
    """Pack a batch's sequences, or None where that saves too little.

    Args:
        inputs: input_ids and attention_mask (N, T), padded on the right.
        sizes: how many sequences, one after the other, stand in each packed row.
        dtype: of the mask.
    """
    ids_NT, lengths = inputs["input_ids"], inputs["attention_mask"].sum(1).tolist()
    sequences = [ids[:length] for ids, length in zip(ids_NT.tolist(), lengths, strict=True)]
    ends = np.cumsum(sizes).tolist()
    trees = [_tree(sequences[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
    width = max(len(tree.ids) for tree in trees)
    if len(trees) * width > WORTH * ids_NT.numel():
        return None
    ids_RP, positions_RP = (np.zeros((len(trees), width), dtype=np.int64) for _ in range(2))
    sees_RPP = np.broadcast_to(np.eye(width, dtype=bool), (len(trees), width, width)).copy()
    place_NT = np.zeros(tuple(ids_NT.shape), dtype=np.int64)
    number = 0
    for row, tree in enumerate(trees):
        ids_RP[row, : len(tree.ids)], positions_RP[row, : len(tree.ids)] = tree.ids, tree.depths
        for path in tree.paths:
            sees_RPP[row][np.ix_(path, path)] |= np.tri(len(path), dtype=bool)
            place_NT[number, : len(path)] = path
            number += 1
    device = ids_NT.device
    hidden_R1PP = torch.from_numpy(~sees_RPP)[:, None].to(device)
    return Packed(
        inputs={
            "input_ids": torch.from_numpy(ids_RP).to(device),
            "position_ids": torch.from_numpy(positions_RP).to(device),
            "attention_mask": torch.zeros(hidden_R1PP.shape, dtype=dtype, device=device).masked_fill(
                hidden_R1PP, torch.finfo(dtype).min
            ),
        },
        row_N=torch.repeat_interleave(torch.arange(len(trees)), torch.tensor(list(sizes))).to(device),
        place_NT=torch.from_numpy(place_NT).to(device),
    )


@dataclass(frozen=True, kw_only=True)
class _Tree:
    """A tree of tokens, parents before their children."""

    ids: list[int]
    depths: list[int]
    paths: list[list[int]]
    """For each sequence the places of its tokens."""


def _tree(sequences: Sequence[Sequence[int]]) -> _Tree:
    places: dict[tuple[int, int], int] = {}
    ids: list[int] = []
    depths: list[int] = []
    paths: list[list[int]] = []
    for sequence in sequences:
        place, path = -1, []
        for depth, token in enumerate(sequence):
            place = places.setdefault((place, token), len(ids))
            if place == len(ids):
                ids.append(token)
                depths.append(depth)
            path.append(place)
        paths.append(path)
    return _Tree(ids=ids, depths=depths, paths=paths)


def tree_size(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens of the tree of sequences."""
    return len(_tree(sequences).ids)
