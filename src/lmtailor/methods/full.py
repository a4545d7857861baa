"""Full fine-tuning: every parameter of the base that the readout's answer depends on.

Start: the base's own values, in float32. The base keeps its copy; the trained one is swapped in while attached.
Trained parameters: all of them. Devlin et al. 2019, arXiv:1810.04805, section 3.2 and appendix A.3 (lr 2e-5 … 5e-5).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from lmtailor.base.sites import Sites
from lmtailor.edits.edits import Edits
from lmtailor.methods.method import Method, Recipe, Start
from lmtailor.methods.select import dense


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Every parameter."""

    recipe: ClassVar[Recipe] = Recipe(lr=2e-5, weight_decay=0.01, warmup=0.06)
    paper: ClassVar[str] = "Devlin et al. 2019, section 3.2"
    formula: ClassVar[str] = "all"
    start: ClassVar[Start] = "identity"

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """One dense replacement for every parameter."""
        return dense(sites.parameters(), rng)
