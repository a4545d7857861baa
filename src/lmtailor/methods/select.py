"""Partial fine-tuning of any sites: their parameters whole, the rest frozen.
Lee et al. 2019, arXiv:1911.03090 (which layers to tune).

Start: the base's own values, in float32.
Trained parameters: those of the selected sites, each counted once; `block.3` is all of block 3, `block.*.attn` all projections
(and norms) whose names start so. A parameter that is tied to another is trained together with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from lmtailor.base.sites import Sites
from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import DenseWeight
from lmtailor.methods.method import Method, Recipe, Start


@dataclass(frozen=True, kw_only=True)
class Select(Method):
    """The parameters of the sites that `at` selects."""

    recipe: ClassVar[Recipe] = Recipe(lr=2e-5, weight_decay=0.01, warmup=0.06)
    paper: ClassVar[str] = "Lee et al. 2019, section 3"
    formula: ClassVar[str] = "Σ parameters of the sites"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"at": "block.[-1].ffn, lm_head"})

    at: str = "block.*.attn"

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One dense replacement for every parameter of the selected sites."""
        chosen = sites.select(self.at)
        parts = [site for site in chosen if site.part is not None and site.fused not in {other.name for other in chosen}]
        if parts:
            raise UnsupportedError(
                f"{parts[0].name} is part of the fused weight {parts[0].fused}, which is trained whole or not at all. "
                f"Select {parts[0].fused}, or use LoRA on the part."
            )
        parameters: dict[str, Tensor] = {}
        for site in chosen:
            parameters |= sites.parameters(site.name)
        if not parameters:
            raise UnsupportedError(f"The sites of {self.at!r} have no parameters in {sites.model_type}.")
        return dense(parameters, rng)


def dense(parameters: Mapping[str, Tensor], rng: Generator | None) -> Edits:
    """Dense replacements that start as float32 copies of these parameters."""

    def start(value: Tensor) -> Tensor:
        return torch.empty(value.shape, device="meta") if rng is None else value.detach().float().clone()

    return Edits(tuple(DenseWeight(site=path, value=start(value)) for path, value in parameters.items()))
