"""Intrinsic dimension, structure-aware (SAID): all weights move in a random subspace of d dimensions.
Aghajanyan et al. 2020, arXiv:2012.13255, sections 3 and 3.1.

θ_i = θ₀_i + λ_i · P(θ_{d−m})_i for each of the m layers i: P is a random projection from d − m to all D numbers of the base, and
P(·)_i the part of its output that belongs to layer i. The numbers λ and θ_{d−m} are trained, together d.
P is a Fastfood transform (`_fastfood.py`), drawn from `seed` and the parameters' paths: it is computed once a pass and never
stored. Its columns have the length 1 over all D numbers, as those of Li et al. 2018, whose method this is without λ.
A layer is a block; what lies outside of the blocks is one more. Public code differs: it has a λ for each parameter
(`layers="parameter"`) and columns of length 1 over each parameter by itself (`unit="parameter"`), which moves small parameters
far more. It also draws one square transform for each parameter, by which a parameter with fewer than d numbers sees only as
many of θ; here every parameter sees all of them, as in the paper.

Shapes: D parameters of the base, d − m directions, m layers.
Start: θ = 0 and λ = 1, which leaves the model unchanged.
Trained parameters: d (`dimension`), whatever the base.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Generator, Tensor

from lmtailor.base.sites import Sites
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import WeightEdit
from lmtailor.methods._fastfood import Fastfood
from lmtailor.methods.method import Method, Recipe, Start, zeros


@dataclass(frozen=True, kw_only=True, eq=False)
class ProjectedWeight(WeightEdit):
    """A parameter that moves where the projection of a few numbers moves it."""

    theta_d: Tensor = trained(shared="said")
    """The point in the subspace (d − m,)."""
    lambda_m: Tensor = trained(shared="said")
    """A factor for each layer."""
    layer: int
    """Which of them is this parameter's."""
    projection: Fastfood

    def weight(self, base: Tensor) -> Tensor:
        """θ₀ + λ · P(θ)."""
        return base.detach() + (self.lambda_m[self.layer] * self.projection(self.theta_d)).view_as(base)


@dataclass(frozen=True, kw_only=True)
class IntrinsicSAID(Method):
    """All weights, within a random subspace of few dimensions."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-2)
    paper: ClassVar[str] = "Aghajanyan et al. 2020, section 3.1"
    formula: ClassVar[str] = "dimension"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"dimension": 70, "unit": "parameter"},
        {"dimension": 400, "layers": "parameter", "seed": 3},
    )

    dimension: int = 20_000
    """d, with the layers' factors."""
    seed: int = 0
    """Of the projection. Adapters of one seed and dimension live in one subspace."""
    layers: Literal["block", "parameter"] = "block"
    """What has a factor of its own."""
    unit: Literal["model", "parameter"] = "model"
    """Over what a column of P has length 1."""

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One edit for every parameter."""
        parameters = sites.parameters()
        layer_of = {path: path for path in parameters} if self.layers == "parameter" else _blocks(sites, list(parameters))
        names = list(dict.fromkeys(layer_of.values()))
        total = sum(value.numel() for value in parameters.values())
        free = self.dimension - len(names)
        if free < 1 or self.dimension > total:
            raise InputError(
                f"dimension is {self.dimension}; for {sites.model_type} with {len(names)} layers and {total} parameters it is "
                f"{len(names) + 1} to {total}, since each layer takes one of the dimensions for its factor."
            )
        theta_d = zeros((free,), rng)
        lambda_m = zeros((len(names),), rng) + 1
        return Edits(
            tuple(
                ProjectedWeight(
                    site=path,
                    theta_d=theta_d,
                    lambda_m=lambda_m,
                    layer=names.index(layer_of[path]),
                    projection=Fastfood(
                        seed=self.seed,
                        name=path,
                        d=free,
                        n=value.numel(),
                        unit=total if self.unit == "model" else value.numel(),
                    ),
                )
                for path, value in parameters.items()
            )
        )


def _blocks(sites: Sites, paths: Sequence[str]) -> dict[str, str]:
    """The module path of each parameter's block; "" outside of the blocks."""
    blocks = list(dict.fromkeys(site.module for site in sites.values() if site.kind == "block"))
    return {path: next((block for block in blocks if path.startswith(f"{block}.")), "") for path in paths}
