"""The last blocks, whole."""

import pytest

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.methods.top_layers import TopLayers
from tests.edits.worn import base_of
from tests.tiny import FAMILIES


def count(method: TopLayers, base: Base) -> int:
    """Numbers in the last n blocks of the stack that is read."""
    return sum(p.numel() for path in base.read.blocks[-method.n :] for p in base.module(path).parameters())


@pytest.mark.parametrize("key", [key for key in FAMILIES if key != "albert"])
def test_the_last_blocks_are_trained(key: str) -> None:
    base = base_of(key)
    for n in (1, 2, 4):
        edits = TopLayers(n=n).edits(base.sites, None)
        assert edits.num_parameters == count(TopLayers(n=n), base)
        assert all(any(edit.site.startswith(f"{path}.") for path in base.read.blocks[-n:]) for edit in edits)


@pytest.mark.parametrize("n", [0, 5, -1])
def test_there_are_so_many_blocks(n: int) -> None:
    with pytest.raises(InputError, match=f"n is {n}; bert has 4 blocks, so n is 1 to 4"):
        TopLayers(n=n).edits(base_of("bert").sites, None)


def test_shared_blocks_are_not_trained_alone() -> None:
    """ALBERT's four blocks are two groups of two: the last two are a group, the last three are not."""
    base = base_of("albert")
    assert TopLayers(n=2).edits(base.sites, None).num_parameters == sum(
        p.numel() for p in base.module(base.read.blocks[-1]).parameters()
    )
    for n in (1, 3):
        with pytest.raises(UnsupportedError, match="share their weights"):
            TopLayers(n=n).edits(base.sites, None)
