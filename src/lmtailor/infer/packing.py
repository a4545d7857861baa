"""Sequences with equal beginnings as one row: the tokens of their tree, each once.

A token sees the tokens on its own path from the root, and its position is its depth, so its state under causal attention is
what it is in a row of its own. The sequences of one example, which differ in the last few tokens, so cost little more than one.

Shapes: N sequences, T tokens, R packed rows, P tokens of a packed row, H features.
"""

from collections.abc import Hashable, Mapping, Sequence
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
    spot_NT: Tensor
    """The place of each token of the sequences in the packed rows, one after the other; for padding that of the row's first."""
    source_RP: Tensor
    """The place of each packed token in the sequences, one after the other: in one of those that share it."""

    def spread(self, states: States) -> States:
        """The states of the sequences (N, T, H), from those of the packed rows."""
        return states.mapped(lambda packed_RPH: _at(packed_RPH, self.spot_NT))

    def gathered(self, states_NTH: Tensor) -> Tensor:
        """The states of the packed rows (R, P, H), from those of the sequences."""
        return _at(states_NTH, self.source_RP)


def _at(states: Tensor, spots: Tensor) -> Tensor:
    """States at these places of the flat batch. The gradient of `index_select` is a plain sum; that of an index is sorted."""
    return states.flatten(0, 1).index_select(0, spots.flatten()).view(*spots.shape, states.shape[-1])


def by_position(base: Base, edits: Edits) -> bool:
    """Whether a token's state is a function of the tokens before it and of its position alone, so that it may stand elsewhere.

    It is not where attention sees what follows, where a position cannot be given, where a rotary embedding depends on the
    longest sequence of the batch, where an edit asks where in its sequence a token or the answer stands, and where rows run
    several times (a mixture).
    """
    return _dependence(base, edits) is None


def packs(base: Base, edits: Edits, longest: int) -> bool:
    """Whether sequences may be packed: besides `by_position`, attention takes a mask, and no window, which counts columns.

    Args:
        base: the model.
        edits: what is attached.
        longest: positions of the longest sequence, what stands before it included.
    """
    return why_not_packed(base, edits, longest) is None


def why_not_packed(base: Base, edits: Edits, longest: int) -> str | None:
    """What `packs` fails by, as the end of a sentence; None where sequences may be packed."""
    if (why := _dependence(base, edits)) is not None:
        return why
    if base.trunk.config._attn_implementation not in (*IMPLEMENTATIONS, *IMPLEMENTATIONS.values()):
        return f"attention by {base.trunk.config._attn_implementation!r} takes no mask for trees of tokens"
    if any(window < longest for window in _windows(base)):
        return f"attention sees the last {min(_windows(base))} tokens alone, and a sequence has {longest}"
    return None


def _dependence(base: Base, edits: Edits) -> str | None:
    """What a token's state depends on besides the tokens before it and its position."""
    stack = base.read
    if len(base.stacks) > 1 or not stack.causal:
        return "a token sees more than the tokens before it"
    if stack.positions not in ("argument", "mask"):
        return "the model cannot be told positions"
    if any(isinstance(edit, PlacedEdit) for edit in edits):
        return "the method asks where in its sequence a token stands"
    if any(isinstance(edit, PrefixEdit | PromptEdit) and edit.place == "infix" for edit in edits):
        return "the method puts tokens between text and answer"
    if edits.mixed:
        return "rows run once for each member of a mixture"
    if rope_depends_on_batch(base.trunk.config):
        return "the rotary embedding depends on the longest sequence of a batch"
    return None


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
    sequences = _sequences(inputs)
    ends = np.cumsum(sizes).tolist()
    rows = [list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)]
    trees = [_tree([sequences[i] for i in row]) for row in rows]
    if len(trees) * max(len(tree.ids) for tree in trees) > WORTH * inputs["input_ids"].numel():
        return None
    return _packed(inputs, rows, trees, dtype)


def pack_groups(inputs: Mapping[str, Tensor], groups: Sequence[Hashable], width: int, dtype: torch.dtype) -> Packed | None:
    """Pack a batch's sequences into as many rows as cost least, or None where the batch as it is costs no more.

    A product of matrices is linear in a row's tokens, attention quadratic: with H features, the attention of W tokens costs about
    W / 2H of the products. So few long rows waste no padding, and many short rows less attention.

    Args:
        inputs: input_ids and attention_mask (N, T), padded on the right.
        groups: of each sequence; those of one group stand in one row, for they begin alike.
        width: H, features of the residual stream.
        dtype: of the mask.
    """
    sequences = _sequences(inputs)
    members: dict[Hashable, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    sized = sorted(((tree_size([sequences[i] for i in own]), own) for own in members.values()), reverse=True)
    ways = [_divided(sized, count) for count in sorted({*(2**power for power in range(len(sized).bit_length())), len(sized)})]
    grown = [[_tree([sequences[i] for i in row]) for row in rows] for rows in ways]
    costs = [_cost(len(trees), max(len(tree.ids) for tree in trees), width) for trees in grown]
    best = min(range(len(ways)), key=costs.__getitem__)
    count, longest = inputs["input_ids"].shape
    if costs[best] >= _cost(count, longest, width):
        return None
    return _packed(inputs, ways[best], grown[best], dtype)


def _cost(rows: int, tokens: int, width: int) -> float:
    return rows * tokens * (1 + tokens / (2 * width))


def _divided(sized: Sequence[tuple[int, list[int]]], count: int) -> list[list[int]]:
    """Groups, the largest first, as so many rows of like length: each goes where least is."""
    rows: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for size, own in sized:
        row = filled.index(min(filled))
        rows[row] += own
        filled[row] += size
    return rows


def _sequences(inputs: Mapping[str, Tensor]) -> list[list[int]]:
    """The ids of each sequence without padding."""
    lengths = inputs["attention_mask"].sum(1).tolist()
    return [ids[:length] for ids, length in zip(inputs["input_ids"].tolist(), lengths, strict=True)]


def _packed(inputs: Mapping[str, Tensor], rows: Sequence[Sequence[int]], trees: Sequence["_Tree"], dtype: torch.dtype) -> Packed:
    """The trees of rows of sequences, as tensors."""
    count, longest = inputs["input_ids"].shape
    width = max(len(tree.ids) for tree in trees)
    ids_RP, positions_RP = (np.zeros((len(trees), width), dtype=np.int64) for _ in range(2))
    sees_RPP = np.broadcast_to(np.eye(width, dtype=bool), (len(trees), width, width)).copy()
    spot_NT, source_RP = np.zeros((count, longest), dtype=np.int64), np.zeros((len(trees), width), dtype=np.int64)
    for number, (row, tree) in enumerate(zip(rows, trees, strict=True)):
        ids_RP[number, : len(tree.ids)], positions_RP[number, : len(tree.ids)] = tree.ids, tree.depths
        spot_NT[list(row)] = number * width
        for sequence, path in zip(row, tree.paths, strict=True):
            sees_RPP[number][np.ix_(path, path)] |= np.tri(len(path), dtype=bool)
            spot_NT[sequence, : len(path)] += path
            source_RP[number, path] = sequence * longest + np.arange(len(path))
    device = inputs["input_ids"].device
    hidden_R1PP = torch.from_numpy(~sees_RPP)[:, None].to(device)
    return Packed(
        inputs={
            "input_ids": torch.from_numpy(ids_RP).to(device),
            "position_ids": torch.from_numpy(positions_RP).to(device),
            "attention_mask": torch.zeros(hidden_R1PP.shape, dtype=dtype, device=device).masked_fill(
                hidden_R1PP, torch.finfo(dtype).min
            ),
        },
        spot_NT=torch.from_numpy(spot_NT).to(device),
        source_RP=torch.from_numpy(source_RP).to(device),
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
