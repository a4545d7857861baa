"""Fine-tuning of the last n blocks: the lower ones are frozen and run once.  Lee et al. 2019, arXiv:1911.03090.

Start: the base's own values, in float32. In encoder-decoders the last n blocks of the decoder.
Trained parameters: those of n blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator

from lmtailor.base.sites import Sites
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.methods.method import Method, Recipe, Start
from lmtailor.methods.select import Select


@dataclass(frozen=True, kw_only=True)
class TopLayers(Method):
    """The last `n` blocks."""

    recipe: ClassVar[Recipe] = Recipe(lr=2e-5, weight_decay=0.01, warmup=0.06)
    paper: ClassVar[str] = "Lee et al. 2019, section 3"
    formula: ClassVar[str] = "n · parameters of a block"
    start: ClassVar[Start] = "identity"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"n": 1})

    n: int = 2

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """Dense replacements for all parameters of the last blocks."""
        stack = sites.stacks[-1]
        blocks = sites.blocks(stack)
        if not 1 <= self.n <= blocks:
            raise InputError(f"n is {self.n}; {sites.model_type} has {blocks} blocks, so n is 1 to {blocks}.")
        pattern = f"{stack}.block.[-{self.n}:]" if stack else f"block.[-{self.n}:]"
        chosen = sites.select(pattern, "block")
        frozen = {site.module for site in sites.select(f"{stack}.block.*" if stack else "block.*", "block") if site not in chosen}
        if shared := frozen & {site.module for site in chosen}:
            raise UnsupportedError(
                f"The blocks of {sites.model_type} share their weights ({sorted(shared)[0]}), "
                f"so the last {self.n} cannot be trained alone."
            )
        return Select(at=pattern).edits(sites, rng)
