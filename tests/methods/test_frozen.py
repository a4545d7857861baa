"""Nothing is trained."""

from lmtailor.base.base import Base
from lmtailor.methods.frozen import Frozen
from tests.edits.worn import base_of


def count(method: Frozen, base: Base) -> int:
    """None."""
    return 0


def test_there_are_no_edits() -> None:
    assert len(Frozen().edits(base_of("bert").sites, None)) == 0
