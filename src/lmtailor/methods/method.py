"""What a method is: a frozen dataclass of hyperparameters that turns sites into edits."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from lmtailor.base.base import Base
from lmtailor.base.sites import Sites
from lmtailor.edits.edits import Edits


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
class Method(ABC):
    """Base of all methods. A subclass is final and lives in a file of its own; the file's name is the method's name."""

    recipe: ClassVar[Recipe] = Recipe()
    paper: ClassVar[str] = ""
    """Authors, year and section."""
    formula: ClassVar[str] = ""
    """Number of trained parameters, in the letters of the docstring."""
    start: ClassVar[Start] = "elsewhere"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """Settings that fit a toy model, one for each way in which the method computes: what the conformance suite runs."""

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
