"""The union of methods: all their edits, trained, saved and served as one.  `LoRA(...) + Prefix(...) + BitFit()` makes it.

Where two parts act at one site, the first part's edit acts first. A part's own start, rates, penalty, step and plain form hold
for its edits.
Trained parameters: the sum over the parts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Sites
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PlacedEdit, PromptEdit
from lmtailor.methods.bitfit import BitFit
from lmtailor.methods.lora import LoRA
from lmtailor.methods.method import (
    Finishes,
    Measures,
    Method,
    Penalises,
    Rates,
    Recipe,
    Resolves,
    Start,
    Starts,
    Steps,
    Unites,
    Words,
)
from lmtailor.methods.prefix import Prefix
from lmtailor.readouts.readout import Readout


@dataclass(frozen=True, kw_only=True)
class Union(Method, Unites, Resolves, Starts, Finishes, Rates, Penalises, Steps):
    """Several methods at once."""

    recipe: ClassVar[Recipe] = Recipe(lr=1e-3)
    paper: ClassVar[str] = "He et al. 2022, section 4.6"
    formula: ClassVar[str] = "Σ over the parts"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"parts": (LoRA(rank=2), Prefix(length=3, reparam=None))},
        {"parts": (LoRA(rank=2, at="block.*.attn.q"), LoRA(rank=3, at="block.*.attn.{q,v}"), BitFit(add_missing=True))},
    )

    parts: tuple[Method, ...] = ()
    """The methods in the order in which their edits act at a site."""

    @property
    def start(self) -> Start:  # type: ignore[override]  # a fact of the parts, not of the class
        """As far from the base as the part that is farthest."""
        starts = {part.start for part in self.parts}
        return next((start for start in ("elsewhere", "near") if start in starts), "identity")

    def __post_init__(self) -> None:
        for part in self.parts:
            if isinstance(part, Unites):
                raise InputError("A union in a union is the same as one union of all parts: write its parts themselves.")
            if isinstance(part, Measures) or part.passes > 1:
                raise UnsupportedError(
                    f"{type(part).__name__} decides for itself how a batch is run or what is trained, so it cannot be part of a "
                    "union. Fit it alone."
                )

    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """The edits of all parts."""
        if len(self.parts) < 2:
            raise InputError(f"A union has two parts or more; this one has {len(self.parts)}. Write LoRA() + BitFit().")
        parts = [part.edits(sites, rng) for part in self.parts]
        for part, own in zip(self.parts, parts, strict=True):
            if own.mixed:
                raise UnsupportedError(
                    f"{type(part).__name__} runs each row once for each of its members, so it cannot be part of a union. "
                    "Fit it alone."
                )
        names = [name for part in parts for name in dict.fromkeys(part.shared())]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UnsupportedError(f"Two parts of the union share tensors under the name {twice[0]!r}. Use one of them.")
        fronts = [part for part in parts if any(isinstance(edit, PromptEdit) and edit.place == "front" for edit in part)]
        if any(isinstance(edit, PlacedEdit) for part in fronts[1:] for edit in part):
            raise UnsupportedError(
                "PreLayer replaces the states of the first virtual tokens, and another part puts its own before them. "
                "Write PreLayer first, such as PreLayer() + SoftPrompt()."
            )
        return Edits.joined(parts)

    def resolved(self, base: Base, readout: Readout | None) -> Method:
        """Each part with its settings complete."""
        return Union(parts=tuple(part.resolved(base, readout) if isinstance(part, Resolves) else part for part in self.parts))

    def started(self, edits: Edits, base: Base, words: Words, rng: Generator) -> Edits:
        """Each part at its own start."""
        return Edits.joined(
            [part.started(own, base, words, rng) if isinstance(part, Starts) else own for part, own in self._each(edits)]
        )

    def finished(self, edits: Edits) -> tuple[Method, Edits]:
        """Each part in its plain form."""
        done = [part.finished(own) if isinstance(part, Finishes) else (part, own) for part, own in self._each(edits)]
        return Union(parts=tuple(part for part, _ in done)), Edits.joined([own for _, own in done])

    def rates(self, edits: Edits) -> Mapping[str, float]:
        """Each part's own rates."""
        factors: dict[int, float] = {}
        for part, own in self._each(edits):
            if isinstance(part, Rates):
                state = own.state()
                factors |= {id(state[name]): factor for name, factor in part.rates(own).items()}
        return {name: factors[id(tensor)] for name, tensor in edits.state().items() if id(tensor) in factors}

    def penalty(self, edits: Edits) -> Tensor:
        """The sum of the parts' penalties."""
        own = [part.penalty(one) for part, one in self._each(edits) if isinstance(part, Penalises)]
        return torch.stack(own).sum() if own else torch.zeros(())

    def stepped(self, edits: Edits, memory: dict[str, Tensor], step: int, total: int) -> None:
        """Each part's own step, with a memory of its own."""
        for number, (part, own) in enumerate(self._each(edits)):
            if isinstance(part, Steps):
                start = f"{number}."
                kept = {name.removeprefix(start): value for name, value in memory.items() if name.startswith(start)}
                part.stepped(own, kept, step, total)
                memory |= {f"{start}{name}": value for name, value in kept.items()}

    def _each(self, edits: Edits) -> Iterator[tuple[Method, Edits]]:
        yield from zip(self.parts, edits.split(), strict=True)
