"""P-tuning v2: deep prompts, trained keys and values in every layer.  Liu et al. 2022, arXiv:2110.07602, section 3.

The same as `Prefix(reparam=None)` with a classification head, under the name of its paper, and kept as a prefix. Its claim is
about understanding: with prompts in all layers and a `Head` instead of label words, tuning them alone reaches fine-tuning.
Simple classification takes fewer than 20 virtual tokens, hard sequence labelling about 100 (section 3.3).

Shapes: L attention layers, N virtual tokens, W = kv_heads · head_dim.
Start: N(0, 0.02²). Trained parameters: L · 2 · N · W.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator

from lmtailor.base.sites import Sites
from lmtailor.edits.edits import Edits
from lmtailor.methods.method import Finishes, Method, Recipe
from lmtailor.methods.prefix import Prefix


@dataclass(frozen=True, kw_only=True)
class PTuningV2(Method, Finishes):
    """Trained keys and values in every layer, for a classification head."""

    recipe: ClassVar[Recipe] = Recipe(lr=5e-3)
    paper: ClassVar[str] = "Liu et al. 2022 (P-Tuning v2), section 3"
    formula: ClassVar[str] = "L · 2 · length · kv_heads · head_dim"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"length": 3},)

    length: int = 20
    """Virtual tokens."""
    at: str = "block.*.attn"

    def __post_init__(self) -> None:
        self.prefix()

    def prefix(self) -> Prefix:
        """The prefix that it is."""
        return Prefix(length=self.length, at=self.at)

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """The prefix's edits."""
        return self.prefix().edits(sites, rng)

    def finished(self, edits: Edits) -> tuple[Method, Edits]:
        """The same edits, as a prefix."""
        return self.prefix(), edits
