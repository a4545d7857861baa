"""FISH Mask: the k parameters with the largest Fisher information are trained, the others are not.
Sung et al. 2021, arXiv:2111.09839, sections 3.1 and 3.2 (0.5 % of the parameters, 1,024 examples).

F̂_θ = 1/N · Σ_i (∇_θ log p_θ(y_i | x_i))², the empirical Fisher information: y_i are the labels of the data (equation 4), and
the gradient is squared for each example before the mean. The paper's code does the same by default: batches of one example,
with their labels; it adds up the squares without dividing, which changes no order. It sets the classifier apart, as here, but
counts it in k; here k = ⌊fraction · D⌋ of the D numbers of the base, and a readout's numbers come on top.

Shapes: D parameters of the base, laid end to end in the order of their paths; k trained ones.
Start: the base's own values, in float32, at the k positions. Before anything is measured, positions are drawn at random.
The positions are stored once, as one sorted vector, and the values beside them as another; each parameter takes its segment of
both. So a parameter without a trained entry is the base's own, not a copy.
Trained parameters: ⌊fraction · D⌋, at least 1.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from lmtailor.base.sites import Sites
from lmtailor.core.errors import AdapterFileError, InputError
from lmtailor.edits.edit import fixed, trained
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import DenseWeight, WeightEdit
from lmtailor.methods.method import Measures, Method, Recipe, Start


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedWeight(WeightEdit):
    """A parameter of which those entries are trained that the mask of the whole model has there."""

    index_k: Tensor = fixed(shared="fish")
    """Positions in the whole model, int64, ascending."""
    value_k: Tensor = trained(shared="fish")
    """The values there."""
    offset: int
    """Where this parameter begins among all."""
    total: int
    """Numbers in all parameters."""

    def check(self, sites: Sites) -> None:
        """Positions must be those of numbers, ascending, each once. All edits hold the same, so the first one looks."""
        index = self.index_k
        if self.offset or not len(index):
            return
        if int(index[0]) < 0 or int(index[-1]) >= self.total or not bool((index[1:] > index[:-1]).all()):
            raise AdapterFileError(
                f"The positions of the trained numbers are not ascending and among the {self.total} of this base, each once."
            )

    def weight(self, base: Tensor) -> Tensor:
        """The base's parameter with the trained entries put in; the base's own where it has none."""
        bounds = torch.tensor([self.offset, self.offset + base.numel()], device=self.index_k.device)
        first, end = torch.searchsorted(self.index_k, bounds).tolist()
        if first == end:
            return base
        own = self.index_k[first:end] - self.offset
        return base.detach().flatten().index_put((own,), self.value_k[first:end].to(base.dtype)).view_as(base)


@dataclass(frozen=True, kw_only=True)
class FishMask(Method, Measures):
    """The numbers that matter most for the task, by their Fisher information."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-3)
    paper: ClassVar[str] = "Sung et al. 2021, section 3"
    formula: ClassVar[str] = "fraction · D"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"fraction": 0.05},)

    fraction: float = 0.005
    """Share of the base's parameters that is trained."""
    samples: int = 1024
    """Examples to measure on."""

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise InputError(f"fraction is {self.fraction}; it is a share of the parameters, above 0 and at most 1.")
        if self.samples < 1:
            raise InputError(f"samples is {self.samples}; the Fisher information needs at least 1 example.")

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One edit for every parameter, at positions drawn by chance."""
        parameters = sites.parameters()
        total = sum(value.numel() for value in parameters.values())
        count = self._count(total)
        if rng is None:
            index_k = torch.empty(count, dtype=torch.int64, device="meta")
            return _edits(parameters, index_k, torch.empty(count, device="meta"), total)
        return _at(parameters, _drawn(count, total, rng), total)

    def measured(self, sites: Sites) -> Edits:
        """Every parameter whole, at the base's own values: views of them, since nothing is trained while measuring."""
        return Edits(tuple(DenseWeight(site=path, value=value.detach().float()) for path, value in sites.parameters().items()))

    def chosen(self, sites: Sites, squares: Mapping[str, Tensor]) -> Edits:
        """The positions with the largest squares.

        Raises:
            InputError: a square is not finite.
        """
        parameters = sites.parameters()
        fisher_D = torch.cat([squares[f"{path}.value"].flatten() for path in parameters])
        if not bool(torch.isfinite(fisher_D).all()):
            raise InputError(
                "A squared gradient is not finite, so the most important parameters cannot be told. Look for examples whose loss "
                "is not finite, or measure in float32."
            )
        index_k = fisher_D.topk(self._count(len(fisher_D)), sorted=False).indices.sort().values
        return _at(parameters, index_k.cpu(), len(fisher_D))

    def _count(self, total: int) -> int:
        """k, the number of trained parameters."""
        return max(1, int(self.fraction * total))


def _at(parameters: Mapping[str, Tensor], index_k: Tensor, total: int) -> Edits:
    """Edits at these positions, with the base's own values."""
    values, offset = [], 0
    for value in parameters.values():
        first, end = torch.searchsorted(index_k, torch.tensor([offset, offset + value.numel()])).tolist()
        own = (index_k[first:end] - offset).to(value.device)
        values.append(value.detach().flatten()[own].float().cpu())
        offset += value.numel()
    return _edits(parameters, index_k, torch.cat(values), total)


def _edits(parameters: Mapping[str, Tensor], index_k: Tensor, value_k: Tensor, total: int) -> Edits:
    ends = itertools.accumulate(value.numel() for value in parameters.values())
    return Edits(
        tuple(
            MaskedWeight(site=path, index_k=index_k, value_k=value_k, offset=end - value.numel(), total=total)
            for (path, value), end in zip(parameters.items(), ends, strict=True)
        )
    )


def _drawn(count: int, total: int, rng: Generator) -> Tensor:
    """`count` of `total` positions, ascending, without memory for all of them where few are asked for."""
    if 2 * count > total:
        return torch.randperm(total, generator=rng)[:count].sort().values
    found = torch.empty(0, dtype=torch.int64)
    while len(found) < count:
        found = torch.unique(torch.cat((found, torch.randint(total, (2 * count,), generator=rng))))
    return found[torch.randperm(len(found), generator=rng)[:count]].sort().values
