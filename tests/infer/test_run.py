"""What may be shared: no more than all sequences of an example have, and nothing that a readout reads."""

import pytest

from lmtailor.edits.edits import Edits
from lmtailor.infer.prefix_groups import PrefixGroup
from lmtailor.infer.run import groups_of
from lmtailor.readouts.batch import Encoded
from tests.tiny import tiny_base

LONG = tuple(range(60))
PARTED = (*range(40), *range(100, 120))


@pytest.mark.parametrize(
    ("sequences", "read", "length"),
    [
        ((LONG,), ((50, 55),), 50),
        ((LONG, LONG), ((55, 58), (53,)), 53),
        ((LONG, PARTED), ((55,), (55,)), 40),
        ((LONG, PARTED), ((30,), (55,)), 30),
        ((LONG,), ((),), 0),
        ((LONG,), ((0,),), 0),
    ],
)
def test_beginnings_end_where_sequences_part_and_before_what_is_read(
    sequences: tuple[tuple[int, ...], ...], read: tuple[tuple[int, ...], ...], length: int
) -> None:
    items = [Encoded(sequences=sequences, read=read)] * 20
    assert groups_of(tiny_base("llama"), Edits(), items) == [PrefixGroup(length=length, members=tuple(range(20)))]
    assert groups_of(tiny_base("bert"), Edits(), items) == [PrefixGroup(length=0, members=tuple(range(20)))]
    assert groups_of(tiny_base("bert"), Edits(), []) == []
