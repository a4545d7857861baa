"""Which sequences share a beginning that is better run once for all of them.

A radix tree of the sequences' token ids has a node wherever sequences part or end. A node that is chosen becomes the shared
prefix of all sequences below it that have no deeper chosen node; the root, with nothing shared, is always there. With d the
tokens down to a chosen node, w the weights of its sequences (how many rows would repeat the prefix), and r and g the costs below,

    saved by a chosen node = Σ w · (d - r) - d - g

The choice with the largest sum is found by a dynamic programme from the leaves up, which knows for each node the best below it
for every node above that may be the nearest chosen one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

PER_ROW = 6.0
"""r: what attending to a prefix apart costs a row, in tokens of its own."""
PER_GROUP = 64.0
"""g: what one more group costs, in tokens: a pass for the prefix, and batches that are not full."""


@dataclass(frozen=True, kw_only=True)
class PrefixGroup:
    """Sequences that are run together."""

    length: int
    """How many of their first tokens are run once; 0 where nothing is shared."""
    members: tuple[int, ...]
    """Numbers of the sequences, ascending."""


@dataclass
class _Node:
    """A place in the tree where sequences part or end."""

    depth: int
    parent: int
    members: list[int] = field(default_factory=list)
    """The sequences that end here."""


def prefix_groups(
    sequences: Sequence[Sequence[int]],
    weights: Sequence[float] | None = None,
    *,
    per_row: float = PER_ROW,
    per_group: float = PER_GROUP,
) -> list[PrefixGroup]:
    """The cheapest way to run sequences of which some have equal beginnings. Every sequence is in one group.

    Args:
        sequences: token ids; of each only as much as may be shared.
        weights: how many rows would repeat a sequence's beginning; 1 each if none are given.
        per_row: r (tokens).
        per_group: g (tokens).
    """
    nodes = _radix_tree(sequences)
    own = np.ones(len(sequences)) if weights is None else np.asarray(weights, dtype=float)
    homes = _homes(nodes, [float(own[node.members].sum()) for node in nodes], per_row, per_group)
    groups: dict[int, list[int]] = {}
    for node, home in zip(nodes, homes, strict=True):
        if node.members:
            groups.setdefault(home, []).extend(node.members)
    found = [PrefixGroup(length=nodes[home].depth, members=tuple(sorted(members))) for home, members in groups.items()]
    return sorted(found, key=lambda group: group.members)


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens of two sequences are equal."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _radix_tree(sequences: Sequence[Sequence[int]]) -> list[_Node]:
    """The nodes, parents before their children; the root is the first."""
    nodes, path = [_Node(0, -1)], [0]
    previous: Sequence[int] = ()
    for number in sorted(range(len(sequences)), key=lambda i: tuple(sequences[i])):
        sequence = sequences[number]
        common, below = shared_length(previous, sequence), -1
        while nodes[path[-1]].depth > common:
            below = path.pop()
        if nodes[path[-1]].depth < common:  # the sequences part in the midst of an edge
            nodes.append(_Node(common, path[-1]))
            path.append(len(nodes) - 1)
            nodes[below].parent = path[-1]
        if nodes[path[-1]].depth < len(sequence):
            nodes.append(_Node(len(sequence), path[-1]))
            path.append(len(nodes) - 1)
        nodes[path[-1]].members.append(number)
        previous = sequence
    order = sorted(range(len(nodes)), key=lambda i: nodes[i].depth)
    place = {old: new for new, old in enumerate(order)} | {-1: -1}
    return [_Node(nodes[old].depth, place[nodes[old].parent], nodes[old].members) for old in order]


def _homes(nodes: Sequence[_Node], weights: Sequence[float], per_row: float, per_group: float) -> list[int]:
    """For each node the chosen node whose prefix its sequences share."""
    gains: list[NDArray[np.float64]] = []
    """For each node what a unit of weight saves with the prefix of each node from the root to it."""
    for node in nodes:
        above = gains[node.parent] if node.parent >= 0 else np.empty(0)
        gains.append(np.append(above, node.depth - per_row if node.depth else 0.0))
    below = [np.zeros(len(gain)) for gain in gains]
    """For each node what is saved below it, if the nearest chosen node is each from the root to it."""
    taken: list[NDArray[np.bool_]] = [np.empty(0, dtype=bool)] * len(nodes)
    for number in range(len(nodes) - 1, 0, -1):
        node, saved = nodes[number], below[number] + weights[number] * gains[number]
        chosen = saved[-1] - node.depth - per_group
        taken[number] = chosen > saved[:-1]
        below[node.parent] += np.maximum(saved[:-1], chosen)
    homes, nearest = [0], [0]
    for number, node in enumerate(nodes[1:], start=1):
        choose = bool(taken[number][nearest[node.parent]])
        homes.append(number if choose else homes[node.parent])
        nearest.append(len(gains[number]) - 1 if choose else nearest[node.parent])
    return homes
