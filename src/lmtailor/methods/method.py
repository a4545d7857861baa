"""What a method is: a frozen dataclass of hyperparameters that turns sites into edits."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Sites
from lmtailor.core.discovery import discovered
from lmtailor.core.typed import Variants
from lmtailor.edits.edits import Edits
from lmtailor.readouts.readout import Readout


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a method's paper trains it; what `Training` leaves open is taken from here."""

    lr: float = 5e-4
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    weight_decay: float = 0.0
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.06
    """Share of the steps."""


Start = Literal["identity", "near", "elsewhere"]
"""What the model is under untrained edits: the base to rounding, the base to some hundredths of its largest logit, or another."""


@dataclass(frozen=True, kw_only=True)
class Method(Variants):
    """Base of all methods. A subclass is final and lives in a file of its own; the file's name is the method's name.

    `a + b` is their union: both sets of edits, trained and saved as one.
    """

    recipe: ClassVar[Recipe] = Recipe()
    paper: ClassVar[str] = ""
    """Authors, year and section."""
    formula: ClassVar[str] = ""
    """Number of trained parameters, in the letters of the docstring."""
    start: ClassVar[Start] = "elsewhere"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """Settings that fit a toy model, one for each way in which the method computes: what the conformance suite runs."""
    passes: ClassVar[int] = 1
    """Forward passes of a training batch, each with a draw of its own (`Context.draw`). With 2, p and q, the loss is the first
    one's plus ½(KL(p‖q) + KL(q‖p))."""

    @classmethod
    def variants(cls) -> Mapping[str, type["Method"]]:
        """All methods by name."""
        return discovered(Method)

    def __add__(self, other: "Method") -> "Method":
        """The union of two methods."""
        union: Any = self.variants()["union"]
        return cast(Method, union(parts=(*_parts(self), *_parts(other))))

    @abstractmethod
    def edits(self, sites: Sites, rng: Generator | None) -> Edits:
        """The edits at their start.

        Args:
            sites: of the base. Patterns that select nothing raise.
            rng: draws the start; None gives shapes without memory (device "meta").

        Raises:
            SiteError: a site pattern selects nothing.
            UnsupportedError: the method has no meaning on this architecture; the message says why.
        """


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a start may be taken from, besides the base."""

    labels: tuple[str, ...] = ()
    """The task's label names, or a verbalizer's words for them."""
    extra: Mapping[str, str] = field(default_factory=dict)


def _parts(method: Method) -> tuple[Method, ...]:
    """The parts of a union, or the method itself."""
    return method.parts if isinstance(method, Unites) else (method,)


class Unites(ABC):
    """A method that is several."""

    parts: tuple[Method, ...]


class Resolves(ABC):
    """A method whose settings are complete only with a base: words that its tokenizer reads, a readout's label words."""

    @abstractmethod
    def resolved(self, base: Base, readout: Readout | None) -> Method:
        """The method with all settings that its edits need, which is what is stored; itself if it has them.

        Raises:
            InputError: the words do not fit the base or the readout.
        """


class Starts(ABC):
    """A method whose start is computed with the base: real words, calibration."""

    @abstractmethod
    def started(self, edits: Edits, base: Base, words: Words, rng: Generator) -> Edits:
        """The edits with their start. Called once, before training."""


class Finishes(ABC):
    """A method that trains more than it keeps: a reparameterisation, copies to average."""

    @abstractmethod
    def finished(self, edits: Edits) -> tuple[Method, Edits]:
        """The plain method and edits that do the same. Called once, after training."""


class Rates(ABC):
    """A method whose tensors learn at different rates."""

    @abstractmethod
    def rates(self, edits: Edits) -> Mapping[str, float]:
        """Name in `edits.state()` → factor of the learning rate; what is left out has 1."""


class Penalises(ABC):
    """A method with a term of its own in the loss."""

    @abstractmethod
    def penalty(self, edits: Edits) -> Tensor:
        """What is added to the loss of each step, a scalar with gradient."""


class Steps(ABC):
    """A method that changes its tensors besides the optimizer: a budget that moves between sites."""

    @abstractmethod
    def stepped(self, edits: Edits, memory: dict[str, Tensor], step: int, total: int) -> None:
        """Act after an optimizer step, before gradients are cleared: change the trained tensors in place.

        Args:
            edits: with the trained tensors and their gradients.
            memory: tensors to keep between steps, at first empty; stored in checkpoints.
            step: that was done, from 0.
            total: steps of the fit.
        """


class Measures(ABC):
    """A method that chooses what to train by squared gradients on training examples (the empirical Fisher information)."""

    samples: int
    """Examples to measure on."""

    @abstractmethod
    def measured(self, sites: Sites) -> Edits:
        """Edits whose gradients are wanted, at the base's own values."""

    @abstractmethod
    def chosen(self, sites: Sites, squares: Mapping[str, Tensor]) -> Edits:
        """The edits at their start.

        Args:
            sites: of the base.
            squares: name in `measured(...).state()` → the mean over examples of the squared gradient of the example's loss.
        """


def zeros(shape: Sequence[int], rng: Generator | None) -> Tensor:
    """A start of zeros; without memory if there is no generator."""
    return torch.empty(*shape, device="meta") if rng is None else torch.zeros(*shape)


def normal(shape: Sequence[int], rng: Generator | None, *, std: float, truncate: float | None = None) -> Tensor:
    """A normal start N(0, std²); values beyond `truncate` standard deviations are drawn again."""
    if rng is None:
        return torch.empty(*shape, device="meta")
    if truncate is None:
        return torch.randn(*shape, generator=rng) * std
    out = torch.empty(*shape)
    return torch.nn.init.trunc_normal_(out, std=std, a=-truncate * std, b=truncate * std, generator=rng)


def uniform(shape: Sequence[int], rng: Generator | None, *, bound: float) -> Tensor:
    """A uniform start U[-bound, bound]."""
    if rng is None:
        return torch.empty(*shape, device="meta")
    return torch.rand(*shape, generator=rng) * (2 * bound) - bound
