"""What a strategy is: a way from data to an adapter that takes more than one fit, or a search instead of one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from lmtailor.base.base import Base
from lmtailor.core.discovery import discovered
from lmtailor.core.errors import UnsupportedError
from lmtailor.core.settings import to_mapping
from lmtailor.core.typed import Variants
from lmtailor.fit.callbacks.callback import Callback
from lmtailor.fit.training import Training
from lmtailor.methods.frozen import Frozen
from lmtailor.methods.method import Method
from lmtailor.readouts.readout import Readout
from lmtailor.store.adapter import Adapter
from lmtailor.strategies.desk import Desk
from lmtailor.tasks.task import Task

Tell = Callable[[str, int, int], None]
"""Called with what goes on, how much of it is done, and of how much."""

Part = Literal["pattern", "words"]
"""A part of a verbalizer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """What a strategy is given."""

    base: Base
    task: Task
    """Its "unlabelled" split is the text without labels."""
    method: Method | None
    """What may change in the models that are fitted; None: the strategy's own choice."""
    readout: Readout | None
    """How the adapter is to answer; None: the strategy's own choice."""
    training: Training | None
    """How to train; None, and what it leaves open: the strategy's own choice, then the method's recipe."""
    seed: int
    desk: Desk = field(default_factory=lambda: Desk(None))
    """Where finished parts are kept, so that an interrupted work goes on."""
    callbacks: tuple[Callback, ...] = ()
    """Listeners to each fit."""
    tell: Tell

    def refuse_method(self, why: str) -> None:
        """For strategies that train nothing in the model.

        Raises:
            UnsupportedError: a method was asked for.
        """
        if self.method is not None and not isinstance(self.method, Frozen):
            raise UnsupportedError(f"{why} Leave the method out, or use frozen; {type(self.method).__name__} was asked for.")


@dataclass(frozen=True, kw_only=True)
class Strategy(Variants, ABC):
    """Base of all strategies. A subclass is final and lives in a file of its own; the file's name is the strategy's name."""

    paper: ClassVar[str] = ""
    """Authors, year and section."""

    @classmethod
    def variants(cls) -> Mapping[str, type[Any]]:
        """All strategies by name."""
        return discovered(Strategy, alone=False)

    @property
    def finds(self) -> frozenset[Part]:
        """What of a verbalizer it finds by itself, so that a readout need not say it."""
        return frozenset()

    @property
    def content(self) -> Mapping[str, str]:
        """Digests of data that its settings name by a path: with other data a work is another work."""
        return {}

    def settings(self) -> dict[str, object]:
        """Its name, its settings and their content, as records hold them."""
        return {"name": self.variant_name(), **to_mapping(self), **self.content}

    def filled(self, verbalizer: Mapping[str, object], task: Task) -> dict[str, object]:
        """Settings of a verbalizer in which something stands for what the strategy finds: any pattern, the labels' own names."""
        filled = dict(verbalizer)
        if "pattern" in self.finds:
            filled.setdefault("pattern", f"{{{task.text[0]}}} {{mask}}")
        if "words" in self.finds:
            filled.setdefault("words", {label: [label] for label in task.labels})
        return filled

    @abstractmethod
    def run(self, work: Work) -> Adapter:
        """From data to an adapter.

        What a strategy found on the way (candidates, scores) stands in the adapter's provenance under "search".

        Raises:
            InputError: settings that do not fit the base or the data.
            UnsupportedError: it has no meaning on this architecture, or with the method or readout that was asked for.
        """
