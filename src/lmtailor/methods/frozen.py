"""Frozen: nothing of the base changes; only the readout is trained. With a head this is probing, with a verbalizer prompting.

Start: the base itself. Trained parameters: none.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from lmtailor.base.sites import Sites
from lmtailor.edits.edits import Edits
from lmtailor.methods.method import Method, Recipe, Start


@dataclass(frozen=True, kw_only=True)
class Frozen(Method):
    """No edits at all."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-2, warmup=0.0)
    paper: ClassVar[str] = "Alain and Bengio 2016 (linear probes)"
    formula: ClassVar[str] = "0"
    start: ClassVar[Start] = "identity"

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """None."""
        return Edits()
