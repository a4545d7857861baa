"""What a `peft_type` is here: the keys of its configuration, how a method is written as it, and how a folder of it is read.

A type is a subclass of `PeftKind` in a file of its own, and one line in `kinds.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.edits.edits import Edits
from lmtailor.methods.method import Method
from lmtailor.store.adapter import Adapter
from lmtailor.store.outline import Outline
from lmtailor.store.peft.task import TaskType
from lmtailor.store.tensors import TensorInfo

PREFIX = "base_model.model."
"""What stands before the path of a module in the names of tensors."""
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a folder is written for."""

    outline: Outline
    task: TaskType
    saved: tuple[str, ...] = ()
    """Modules of a head that are stored whole, which PEFT never adapts."""
    base: Base | None = None
    """Where it is at hand: for what PEFT stores whole, and an adapter as a change."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that is read: what its configuration and the header of its tensors say."""

    config: Mapping[str, Any]
    """Every key of it is known to be understood."""
    header: Mapping[str, TensorInfo]
    base: Base
    outline: Outline
    task: TaskType


@dataclass(frozen=True, kw_only=True)
class Found:
    """A method in a folder: what it is, and how its tensors become our own edits."""

    method: Method
    shapes: Mapping[str, Shape]
    """Tensors of the file that are the method's."""
    edits: Callable[[Edits, Mapping[str, Tensor]], Edits]
    """From the method's edits, shapes without memory, and the file's tensors (float32) to edits with their values."""
    virtual: bool = False
    """Whether PEFT pools virtual tokens with this method (a classifier's head over a prompted encoder)."""


class PeftKind(ABC):
    """One `peft_type`."""

    name: ClassVar[str]
    writes: ClassVar[tuple[type[Method], ...]]
    """Methods that may have this form; `config` raises for those of their settings that have none."""
    keys: ClassVar[frozenset[str]]
    """Keys of the configuration that are read, or that change no number, besides those that every type has."""
    at_rest: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Keys that are not read, with the values at which they change nothing."""
    by_module: ClassVar[bool] = True
    """Whether tensors are named by modules. If so, task types that differ in the generation class alone are the same."""
    trains_biases: ClassVar[bool] = False
    """Whether a folder may hold biases of the base that were trained with the method."""
    ties_weights: ClassVar[bool] = False
    """Whether modules that share a weight may be trained as one, by `ensure_weight_tying`, which PEFT can in causal decoders."""

    @property
    def head(self) -> str:
        """What stands before the names of a head's tensors."""
        return PREFIX if self.by_module else "base_model."

    @abstractmethod
    def config(self, adapter: Adapter, target: Target) -> dict[str, Any]:
        """The keys of `adapter_config.json` that are the type's own.

        Raises:
            UnsupportedError: PEFT has no form for the method with these settings; the message says why.
        """

    @abstractmethod
    def tensors(self, adapter: Adapter, target: Target) -> dict[str, Tensor]:
        """The method's tensors under PEFT's names; shapes without memory if the edits are.

        Raises:
            UnsupportedError: as `config`.
        """

    @abstractmethod
    def edits(self, adapter: Adapter, target: Target, tensors: Mapping[str, Tensor]) -> Edits:
        """The adapter's edits with the values that `tensors` made these of."""

    @abstractmethod
    def found(self, folder: Folder) -> Found:
        """What a folder holds. Nothing is built from a number of the configuration before the header agrees with it.

        Raises:
            AdapterFileError: the folder is damaged, of another base, or asks for what has no equal here.
            UnsupportedError: PEFT itself does not do on this base what the folder asks for.
        """
