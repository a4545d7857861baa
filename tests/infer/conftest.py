"""What the tests of running share: notes of which short cuts were taken."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from lmtailor.infer import passes, run
from lmtailor.infer.packing import Packed, pack
from lmtailor.infer.prefix_groups import PrefixGroup


@dataclass
class Taken:
    """The short cuts of a test."""

    prefixes: list[int] = field(default_factory=list)
    """Lengths of the beginnings that were shared (tokens)."""
    packed: list[int] = field(default_factory=list)
    """For each batch whose sequences ran as trees, its rows."""


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    """Notes the short cuts."""
    notes = Taken()
    groups = run.groups_of

    def groups_of(*args: Any) -> list[PrefixGroup]:
        made = groups(*args)
        notes.prefixes += [group.length for group in made if group.length]
        return made

    def packing(*args: Any) -> Packed | None:
        made = pack(*args)
        notes.packed += [] if made is None else [len(made.inputs["input_ids"])]
        return made

    monkeypatch.setattr(run, "groups_of", groups_of)
    monkeypatch.setattr(passes, "pack", packing)
    return notes
