"""Compacter++: Compacter's adapters after the feed-forward network alone.  Mahabadi et al. 2021, arXiv:2106.04647, section 4.1.

The paper's adapters read the sublayer's output h, as Houlsby's do. AdapterHub's Compacter++ reads what h becomes behind the
residual add and, in post-norm models, its norm, as Pfeiffer's do (`reads="stream"`).
Shapes, start and matrices: as in Compacter.
Trained parameters: N³ + the sum of 2 · K · (H + M) + M + H over the sites.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Generator

from lmtailor.base.sites import Sites
from lmtailor.edits.edits import Edits
from lmtailor.methods._bottleneck import Activation, BehindAdd
from lmtailor.methods._phm import PHM, PHMShape
from lmtailor.methods.compacter import PHMEdit
from lmtailor.methods.method import Method, Recipe, Start


@dataclass(frozen=True, kw_only=True, eq=False)
class PHMAfterAddEdit(PHM, BehindAdd):
    """h + W_up σ(W_down z + b_down) + b_up, z behind the residual add."""


@dataclass(frozen=True, kw_only=True)
class CompacterPlusPlus(Method):
    """One adapter a block with matrices of Kronecker products."""

    recipe: ClassVar[Recipe] = Recipe(lr=3e-3)
    paper: ClassVar[str] = "Mahabadi et al. 2021, section 4.1"
    formula: ClassVar[str] = "terms³ + Σ 2 · rank · (H + M) + M + H, M = bottleneck or H / reduction"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"reduction": 4}, {"bottleneck": 8, "rank": 2, "reads": "stream"})

    reduction: int = 32
    """The width is divided by it."""
    bottleneck: int | None = None
    """Units; None takes the width // `reduction`, rounded up to a multiple of `terms`."""
    terms: int = 4
    """Kronecker products in a matrix, n in the paper; a divisor of width and bottleneck."""
    rank: int = 1
    """Of the right factors."""
    activation: Activation = "gelu"
    reads: Literal["output", "stream"] = "output"
    """What the network reads: the sublayer's output, or the state behind the residual add (AdapterHub)."""
    std: float = 1e-4
    """Standard deviation of A's start."""
    at: str = "block.*.ffn"

    def __post_init__(self) -> None:
        self._shape()

    def _shape(self) -> PHMShape:
        return PHMShape(reduction=self.reduction, bottleneck=self.bottleneck, terms=self.terms, rank=self.rank, std=self.std)

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One network for every sublayer that `at` selects, all with the same A."""
        shape, kind = self._shape(), PHMEdit if self.reads == "output" else PHMAfterAddEdit
        rule = shape.rule(rng)
        return Edits(
            tuple(
                kind(site=site.name, rule_NNN=rule, **shape.tensors(site, rng), activation=self.activation)
                for site in sites.select(self.at, "sublayer")
            )
        )
