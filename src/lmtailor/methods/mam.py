"""MAM, mix and match: a short prefix in every attention and a scaled parallel adapter beside every feed-forward network.
He et al. 2022, arXiv:2110.04366, section 4.6.

It is the union of `Prefix` and `ParallelAdapter`, kept as a name: their docstrings have the equations, shapes and starts.
The paper's settings are the defaults: 30 virtual tokens through a network of 800 units, which is thrown away, in all
self-attentions and attentions over the encoder; a bottleneck of half the width with s = 4.
Trained parameters: the sum over the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Generator

from lmtailor.base.base import Base
from lmtailor.base.sites import Sites
from lmtailor.core.errors import InputError
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PrefixEdit
from lmtailor.methods.method import Finishes, Method, Recipe, Start, Starts, Words
from lmtailor.methods.parallel_adapter import ParallelAdapter
from lmtailor.methods.prefix import Prefix

EVERYWHERE = "block.*.{attn,cross}"


def _prefix() -> Prefix:
    return Prefix(length=30, reparam="mlp", hidden=800, at=EVERYWHERE)


@dataclass(frozen=True, kw_only=True)
class MAM(Method, Starts, Finishes):
    """A prefix and parallel adapters at once."""

    recipe: ClassVar[Recipe] = Recipe(lr=5e-5, weight_decay=0.01)
    paper: ClassVar[str] = "He et al. 2022, section 4.6"
    formula: ClassVar[str] = "those of prefix + those of adapter"
    start: ClassVar[Start] = "elsewhere"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"prefix": Prefix(length=2, reparam="mlp", hidden=5, at=EVERYWHERE), "adapter": ParallelAdapter(bottleneck=3)},
    )

    prefix: Method = field(default_factory=_prefix)
    """A `Prefix`."""
    adapter: Method = field(default_factory=ParallelAdapter)
    """A `ParallelAdapter`."""

    def __post_init__(self) -> None:
        self._parts()

    def _parts(self) -> tuple[Prefix, ParallelAdapter]:
        if not isinstance(self.prefix, Prefix) or not isinstance(self.adapter, ParallelAdapter):
            raise InputError(
                f"MAM mixes a Prefix and a ParallelAdapter, not {type(self.prefix).__name__} and {type(self.adapter).__name__}. "
                "Write other mixtures as a sum, such as Prefix() + LoRA()."
            )
        return self.prefix, self.adapter

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """Those of the prefix, then those of the adapters."""
        return Edits.joined([part.edits(sites, rng) for part in self._parts()])

    def started(self, edits: Edits, base: Base, words: Words, rng: Generator) -> Edits:
        """The prefix at its own start."""
        prefix, adapters = _split(edits)
        return Edits.joined([self._parts()[0].started(prefix, base, words, rng), adapters])

    def finished(self, edits: Edits) -> tuple[Method, Edits]:
        """The prefix without its network."""
        prefix, adapters = _split(edits)
        plain, kept = self._parts()[0].finished(prefix)
        return replace(self, prefix=plain), Edits.joined([kept, adapters])


def _split(edits: Edits) -> tuple[Edits, Edits]:
    prefix = tuple(edit for edit in edits if isinstance(edit, PrefixEdit))
    return Edits(prefix), Edits(tuple(edit for edit in edits if not isinstance(edit, PrefixEdit)))
