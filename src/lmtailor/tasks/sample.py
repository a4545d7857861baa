"""Seeded samples that are the same on every machine: an item's place in the order is a hash of its name."""

from collections.abc import Hashable, Sequence

from lmtailor.core.rng import derive


def stratified(strata: Sequence[Hashable], keys: Sequence[str], count: int, *, seed: int, name: str) -> list[int]:
    """Choose `count` items so that each stratum keeps its share; every stratum gets one where `count` allows.

    Args:
        strata: the stratum of each item, such as its label; all equal for a plain sample.
        keys: a text for each item that decides its place in the order. Adding items does not move the others.
        count: how many to choose; at most the number of items are chosen.
        seed: changes the choice.
        name: changes the choice too; name what the sample is for.

    Returns:
        The indices of the chosen items, ascending.
    """
    members: dict[Hashable, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    sizes = _shares([len(items) for items in members.values()], min(count, len(strata)))
    chosen: list[int] = []
    for items, size in zip(members.values(), sizes, strict=True):
        chosen += sorted(items, key=lambda index: derive(seed, name, keys[index]))[:size]
    return sorted(chosen)


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """`count` divided in proportion to `sizes`: largest remainders, then at least one each if `count` allows."""
    total = sum(sizes)
    shares = [size * count // total for size in sizes] if total else [0 for _ in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(sizes[i] * count % total), i)) if total else []
    for i in by_remainder[: count - sum(shares)]:
        shares[i] += 1
    while count >= len(sizes) and 0 in shares:
        shares[shares.index(max(shares))] -= 1
        shares[shares.index(0)] = 1
    return shares
