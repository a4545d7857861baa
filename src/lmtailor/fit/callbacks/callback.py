"""What a fit tells while it runs. A callback is one file with one class; it only listens."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from lmtailor.tasks.metrics import Scores


@dataclass(frozen=True, kw_only=True)
class Started:
    """The fit is about to begin, or to go on."""

    name: str = ""
    """Of the adapter, where several are fitted together."""
    method: str
    readout: str
    trained: int
    """Trained numbers."""
    total: int
    """Numbers in the base."""
    examples: int
    steps: int
    """Optimizer steps in all."""
    step: int
    """Steps done before, if the fit was resumed."""
    notes: tuple[str, ...]
    """What is worth knowing: cut texts, the cached trunk, a resumed run."""


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """One optimizer step is done."""

    name: str = ""
    """Of the adapter, where several are fitted together."""
    step: int
    """From 1."""
    epoch: float
    loss: float
    """Mean over the step's examples."""
    lr: float
    tokens: int
    """Real tokens in the step."""
    seconds: float
    """That the step took."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The dev set was scored."""

    name: str = ""
    """Of the adapter, where several are fitted together."""
    step: int
    epoch: float
    loss: float
    """Mean training loss since the evaluation before."""
    scores: Scores
    best: bool
    """Whether this is the best so far."""
    seconds: float
    """Since the start of the fit, over all its sessions."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Held-out tasks were asked; see `fit`'s `watched`."""

    name: str = ""
    """Of the adapter, where several are fitted together."""
    step: int
    """0 before the first one."""
    epoch: float
    scores: Mapping[str, Scores]
    """Task → accuracy or perplexity."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The fit is over."""

    name: str = ""
    """Of the adapter, where several are fitted together."""
    step: int
    reason: str
    """"finished", "early stop" or what went wrong."""
    seconds: float


class HearsAsked(ABC):
    """What a callback is too, if it wants to hear of held-out tasks."""

    @abstractmethod
    def asked(self, event: Asked) -> None:
        """After held-out tasks were asked."""


class Callback(Protocol):
    """Listens to a fit."""

    def started(self, event: Started) -> None:
        """Before the first step."""

    def stepped(self, event: Stepped) -> None:
        """After every step."""

    def evaluated(self, event: Evaluated) -> None:
        """After every evaluation."""

    def ended(self, event: Ended) -> None:
        """After the last step, also if the fit failed."""
