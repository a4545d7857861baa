"""OFT: W (R x) + b, where R is orthogonal and block-diagonal.  Qiu et al. 2023, arXiv:2306.07280, section 3.

Each block is the Cayley transform of a skew-symmetric Q: (I + Q)(I - Q)⁻¹. Here a row x is multiplied from the
right, x R, as PEFT does; a neuron's weights then turn by Rᵀ, and angles between neurons stay.
`cayley="neumann"` takes I + Q + … + Qᵖ⁻¹ in place of the inverse, PEFT's default with p = `order` = 4: the product is orthogonal
only for small Q.
PEFT's exact transform has the other sign of Q, which its folders account for.
`epsilon` is the paper's COFT: after each step every Q is put back into a ball of radius epsilon / √B, as PEFT does. (The paper
bounds ‖R - I‖, which is 2‖Q‖ to first order.)

Shapes: R rows, T tokens, I inputs, O outputs, B blocks, S features of a block (B · S = I), E = S(S - 1)/2 numbers of a Q, the
upper triangle row by row.
Start: Q zero, so that R is the identity and the model is unchanged.
Trained parameters: the sum of I(S - 1)/2 over the sites; with `shared`, of S(S - 1)/2.
At a part of a fused projection the turned input is that part's own; the other parts see the input as it is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from lmtailor.base.sites import Site, Sites
from lmtailor.base.views import LinearView
from lmtailor.core.errors import InputError
from lmtailor.edits.edit import Context, freshness, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import ProjectionEdit
from lmtailor.methods.method import Method, Recipe, Start, Steps, zeros

Cayley = Literal["exact", "neumann"]


@dataclass(frozen=True, kw_only=True, eq=False)
class OFTEdit(ProjectionEdit):
    """A turned input."""

    changes_input: ClassVar[bool] = True
    changes_output: ClassVar[bool] = False

    skew_BE: Tensor = trained()
    """Upper triangles of Q; one for all blocks where they share it."""
    size: int
    """S."""
    cayley: Cayley = "exact"
    order: int = 4
    """Of the series in place of the inverse."""
    kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, metadata={"sort": "cache"})
    """The rotations, and what they were made of: the same for all tokens of a generated text."""

    def input(self, x_RTI: Tensor, ctx: Context) -> Tensor:
        """x R."""
        return self._turned(x_RTI)

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """y."""
        return y_RTO

    def fold(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W Rᵀ."""
        rotation_BSS = self._rotations(self.skew_BE.double())
        weight_OBS = weight_OI.double().reshape(len(weight_OI), -1, self.size)
        turned_OBS = torch.einsum("obc,bkc->obk", weight_OBS, rotation_BSS.expand(weight_OBS.shape[1], -1, -1))
        return turned_OBS.flatten(1).to(weight_OI.dtype), bias_O

    def _turned(self, x_RTI: Tensor) -> Tensor:
        x_RTBS = x_RTI.reshape(*x_RTI.shape[:-1], -1, self.size)
        rotation_RBSS = self._rotation().to(x_RTI.dtype).expand(-1, x_RTBS.shape[2], -1, -1)
        return torch.einsum("rtbk,rbkc->rtbc", x_RTBS, rotation_RBSS).flatten(2)

    def _rotation(self) -> Tensor:
        """The rotations (R, B, S, S), made anew only when Q changed or is trained."""
        key, live = freshness([self.skew_BE])
        if live:
            return self._rotations(self.skew_BE.float())
        if self.kept.get("of") != key:
            self.kept.update(of=key, rotation=self._rotations(self.skew_BE.float()))
        rotation: Tensor = self.kept["rotation"]
        return rotation

    def _rotations(self, skew: Tensor) -> Tensor:
        """From triangles (…, E) to rotations (…, S, S)."""
        rows, columns = torch.triu_indices(self.size, self.size, 1, device=skew.device)
        q = skew.new_zeros(*skew.shape[:-1], self.size, self.size)
        q[..., rows, columns] = skew
        q = q - q.mT
        one = torch.eye(self.size, dtype=skew.dtype, device=skew.device)
        if self.cayley == "exact":
            turned: Tensor = torch.linalg.solve(one - q, one + q, left=False)
            return turned
        series = one.expand_as(q)
        for _ in range(self.order - 1):
            series = one + q @ series
        return series + q @ series


@dataclass(frozen=True, kw_only=True, eq=False)
class OFTPartEdit(OFTEdit):
    """A turned input of one part of a fused projection."""

    changes_input: ClassVar[bool] = False
    changes_output: ClassVar[bool] = True

    def output(self, x_RTI: Tensor, y_RTO: Tensor, lin: LinearView, ctx: Context) -> Tensor:
        """y + W (x R - x)."""
        return y_RTO + (self._turned(x_RTI) - x_RTI) @ lin.weight_OI.T


@dataclass(frozen=True, kw_only=True)
class OFT(Method, Steps):
    """Rotations of projections' inputs."""

    recipe: ClassVar[Recipe] = Recipe(lr=5e-4)
    paper: ClassVar[str] = "Qiu et al. 2023, section 3"
    formula: ClassVar[str] = "Σ I · (block_size - 1) / 2"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"block_size": 8, "at": "block.*.attn.{q,v}"},
        {"block_size": None, "blocks": 4, "cayley": "neumann", "shared": True, "epsilon": 0.5, "at": "block.*.ffn.{up,down}"},
    )

    block_size: int | None = 32
    """S; must divide every site's inputs. None: `blocks` says it."""
    blocks: int | None = None
    """B, if block_size is None: then S is a site's inputs divided by it."""
    shared: bool = False
    """All blocks of a site have one Q."""
    cayley: Cayley = "exact"
    order: int = 4
    """With cayley="neumann": the highest power of Q, at least 3."""
    epsilon: float | None = None
    """Bound on how far a site turns (COFT)."""
    at: str = "block.*.attn.{q,k,v,o}"

    def __post_init__(self) -> None:
        if (self.block_size is None) == (self.blocks is None):
            raise InputError("Give block_size or blocks, and set the other one to none.")
        if self.block_size is not None and self.block_size < 2:
            raise InputError(f"block_size is {self.block_size}; a rotation needs at least 2 features.")
        if self.blocks is not None and self.blocks < 1:
            raise InputError(f"blocks is {self.blocks}; there is at least 1.")
        if self.order < 3:
            raise InputError(f"order is {self.order}; the series has powers of Q up to 3 or more.")
        if self.epsilon is not None and not self.epsilon > 0:
            raise InputError(f"epsilon is {self.epsilon}; with a bound that is not positive nothing could turn.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """The rotations of every projection that `at` selects."""
        return Edits(tuple(self._edit(site, rng) for site in sites.select(self.at, "projection")))

    def _edit(self, site: Site, rng: Generator | None) -> OFTEdit:
        inputs = site.in_width or 0
        given = self.block_size or self.blocks or 0
        if inputs % given or inputs == self.blocks:
            divisors = [number for number in range(2, inputs) if inputs % number == 0]
            nearest = sorted(sorted(divisors, key=lambda number: abs(number - given))[:3])
            raise InputError(
                f"{site.name} has {inputs} inputs, which {given} does not divide into blocks of 2 or more. "
                f"Take {', '.join(map(str, nearest))}, or other sites."
            )
        size = self.block_size or inputs // given
        skew_BE = zeros((1 if self.shared else inputs // size, size * (size - 1) // 2), rng)
        kind = OFTEdit if site.part is None else OFTPartEdit
        return kind(site=site.name, skew_BE=skew_BE, size=size, cayley=self.cayley, order=self.order)

    def stepped(self, edits: Edits, memory: dict[str, Tensor], step: int, total: int) -> None:
        """Put every Q back into its ball, if there is a bound."""
        if self.epsilon is not None:
            for edit in edits:
                assert isinstance(edit, OFTEdit)
                edit.skew_BE.mul_(shrinking(edit.skew_BE, self.epsilon))


def shrinking(skew_BE: Tensor, epsilon: float) -> Tensor:
    """The factors (B, 1), at most 1, that put triangles of Q into a ball of radius epsilon / √B of the Frobenius norm."""
    norm_B1 = math.sqrt(2) * skew_BE.norm(dim=1, keepdim=True)
    radius = epsilon / math.sqrt(len(skew_BE))
    return torch.where(norm_B1 > radius, radius / norm_B1, torch.ones_like(norm_B1))
