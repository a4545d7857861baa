"""Compacter: Houlsby's adapters, h + W_up σ(W_down h + b_down) + b_up after attention and feed-forward network, with matrices
W = Σᵢ Aᵢ ⊗ (sᵢ tᵢᵀ).  Mahabadi et al. 2021, arXiv:2106.04647, sections 3.1 and 3.2.

The Aᵢ are shared by both matrices and by all layers; sᵢ tᵢᵀ is of rank K.
Shapes: R rows, T tokens, H features, M bottleneck (H // reduction rounded up to a multiple of N, unless it is named), N terms,
K rank; see `_phm.py`.
Start: A from N(0, 10⁻⁸), s and t Glorot-uniform, biases zero, as in the paper's code: the model is unchanged but for rounding.
Trained parameters: N³ + the sum of 2 · K · (H + M) + M + H over the sites.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator

from lmtailor.base.sites import Sites
from lmtailor.edits.edits import Edits
from lmtailor.methods._bottleneck import Activation, OnOutput
from lmtailor.methods._phm import PHM, PHMShape
from lmtailor.methods.method import Method, Recipe, Start


@dataclass(frozen=True, kw_only=True, eq=False)
class PHMEdit(PHM, OnOutput):
    """h + W_up σ(W_down h + b_down) + b_up."""


@dataclass(frozen=True, kw_only=True)
class Compacter(Method):
    """Two adapters a block with matrices of Kronecker products."""

    recipe: ClassVar[Recipe] = Recipe(lr=3e-3)
    paper: ClassVar[str] = "Mahabadi et al. 2021, section 3"
    formula: ClassVar[str] = "terms³ + Σ 2 · rank · (H + M) + M + H, M = bottleneck or H / reduction"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"reduction": 4},
        {"bottleneck": 6, "terms": 2, "rank": 3, "activation": "relu"},
    )

    reduction: int = 32
    """The width is divided by it."""
    bottleneck: int | None = None
    """Units; None takes the width // `reduction`, rounded up to a multiple of `terms`."""
    terms: int = 4
    """Kronecker products in a matrix, n in the paper; a divisor of width and bottleneck."""
    rank: int = 1
    """Of the right factors."""
    activation: Activation = "gelu"
    std: float = 1e-4
    """Standard deviation of A's start."""
    at: str = "block.*.{attn,ffn}"

    def __post_init__(self) -> None:
        self._shape()

    def _shape(self) -> PHMShape:
        return PHMShape(reduction=self.reduction, bottleneck=self.bottleneck, terms=self.terms, rank=self.rank, std=self.std)

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One network for every sublayer that `at` selects, all with the same A."""
        shape = self._shape()
        rule = shape.rule(rng)
        return Edits(
            tuple(
                PHMEdit(site=site.name, rule_NNN=rule, **shape.tensors(site, rng), activation=self.activation)
                for site in sites.select(self.at, "sublayer")
            )
        )
