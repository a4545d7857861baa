"""Which beginnings are shared: every sequence once, true prefixes, and never dearer than another choice."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtailor.infer.prefix_groups import PrefixGroup, prefix_groups, shared_length

Sequences = list[tuple[int, ...]]

SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=6).map(tuple), max_size=5)
COSTS = st.sampled_from([0.0, 0.5, 1.0, 3.0])


def saved(groups: list[PrefixGroup], weights: list[float], per_row: float, per_group: float) -> float:
    """What groups save: the sum of the module's equation."""
    return sum(
        sum(weights[i] for i in group.members) * (group.length - per_row) - group.length - per_group
        for group in groups
        if group.length
    )


def best_by_trying(sequences: Sequences, weights: list[float], per_row: float, per_group: float) -> float:
    """The most that any set of prefixes saves, each sequence under the longest of them that it has."""
    prefixes = sorted({sequence[:end] for sequence in sequences for end in range(1, len(sequence) + 1)})
    best = 0.0
    for count in range(1, min(3, len(prefixes)) + 1):
        for chosen in itertools.combinations(prefixes, count):
            homes = [max((p for p in chosen if s[: len(p)] == p), key=len, default=()) for s in sequences]
            groups = [PrefixGroup(length=len(p), members=tuple(i for i, home in enumerate(homes) if home == p)) for p in chosen]
            best = max(best, saved(groups, weights, per_row, per_group))
    return best


@given(SEQUENCES, COSTS, COSTS, st.data())
@settings(max_examples=200)
def test_groups_are_a_partition_by_true_prefixes_and_the_cheapest(
    sequences: Sequences, per_row: float, per_group: float, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.sampled_from([1.0, 2.0]), min_size=len(sequences), max_size=len(sequences)))
    groups = prefix_groups(sequences, weights, per_row=per_row, per_group=per_group)
    assert sorted(i for group in groups for i in group.members) == list(range(len(sequences)))
    for group in groups:
        first = sequences[group.members[0]][: group.length]
        assert len(first) == group.length
        assert all(sequences[i][: group.length] == first for i in group.members)
    # sets of up to three prefixes are tried; a group that costs anything makes larger sets of five sequences no better
    found = saved(groups, weights, per_row, per_group)
    assert found >= best_by_trying(sequences, weights, per_row, per_group) - 1e-9


def test_a_common_beginning_is_shared_and_a_deeper_one_where_it_pays() -> None:
    lead, deeper = tuple(range(100)), tuple(range(100, 300))
    sequences = [(*lead, i) for i in range(300, 310)] + [(*lead, *deeper, i) for i in range(300, 310)] + [(7,), ()]
    groups = prefix_groups(sequences)
    assert [(group.length, group.members) for group in groups] == [
        (100, tuple(range(10))),
        (300, tuple(range(10, 20))),
        (0, (20, 21)),
    ]


def test_a_node_below_one_that_is_not_chosen_is_judged_by_the_nearest_chosen_one() -> None:
    lead, more, most = tuple(range(100)), tuple(range(100, 110)), tuple(range(110, 150))
    sequences = [(*lead, i) for i in range(300, 310)] + [(*lead, *more, 5)] + [(*lead, *more, *most, i) for i in (6, 7)]
    assert [(group.length, group.members) for group in prefix_groups(sequences)] == [(100, tuple(range(13)))]
    assert [group.length for group in prefix_groups(sequences[-2:])] == [150]


def test_a_sequence_that_begins_another_and_equal_ones_share() -> None:
    short, long = tuple(range(90)), tuple(range(200))
    (group,) = prefix_groups([short, long, short, long[:150]])
    assert (group.length, group.members) == (90, (0, 1, 2, 3))
    (group,) = prefix_groups([short] * 3)
    assert group.length == 90


def test_what_saves_too_little_is_not_shared() -> None:
    assert prefix_groups([]) == []
    assert [group.length for group in prefix_groups([tuple(range(50))])] == [0]
    assert [group.length for group in prefix_groups([(1, 2, 3, i) for i in range(1000)])] == [0]
    rows = [(*range(30), i) for i in range(50, 53)]
    assert [group.length for group in prefix_groups(rows)] == [0]
    assert [group.length for group in prefix_groups(rows, [3.0] * 3)] == [30]


def test_many_nested_sequences_do_not_reach_the_limit_of_recursion() -> None:
    nested = [tuple(range(end)) for end in range(1, 1500)]
    assert sum(len(group.members) for group in prefix_groups(nested)) == len(nested)


@pytest.mark.parametrize(
    ("one", "other", "length"), [((), (1,), 0), ((1, 2), (1, 2, 3), 2), ((1, 2), (1, 3), 1), ((1,), (2,), 0)]
)
def test_shared_length(one: tuple[int, ...], other: tuple[int, ...], length: int) -> None:
    assert shared_length(one, other) == shared_length(other, one) == length
