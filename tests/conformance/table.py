"""The table of conformance: every method in every way that it computes, on one small model of each kind.

No method is listed here. A new file in `methods/` is in the table by itself, with the settings of its `examples`; how many
numbers it trains is computed by `count(method, base)` in `tests/methods/test_NAME.py`.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from lmtailor.base.base import Base
from lmtailor.core.errors import SiteError, UnsupportedError
from lmtailor.core.rng import generator
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import NormEdit, ProjectionEdit, WeightEdit
from lmtailor.methods import catalogue
from lmtailor.methods.method import Method, Starts, Words
from tests.edits.worn import Worn, base_of, perturbed

BASES = ("bert", "gpt2", "llama", "t5", "bart")
WORDS = Words(labels=("good", "bad"))


@dataclass(frozen=True)
class Cell:
    """One method with one of its example settings on one base."""

    base_key: str
    name: str
    number: int
    """Which of the method's examples."""

    @property
    def base(self) -> Base:
        return base_of(self.base_key)

    @property
    def method(self) -> Method:
        cls = catalogue()[self.name]
        return cls(**cls.examples[self.number])

    def shapes(self) -> Edits:
        """The edits without memory."""
        return self.method.edits(self.base.sites, None)

    def start(self, seed: int = 0) -> Edits:
        """The edits as training finds them."""
        method, rng = self.method, generator(seed, "start")
        edits = method.edits(self.base.sites, rng)
        return method.started(edits, self.base, WORDS, rng) if isinstance(method, Starts) else edits

    def worn(self, seed: int = 0, *, grad: bool = False) -> Worn:
        """The edits away from their start."""
        return Worn(perturbed(self.start(seed), seed, grad=grad))

    @property
    def shares_batch(self) -> bool:
        return self.shapes().shares_batch

    @property
    def foldable(self) -> bool:
        """Whether every edit is a change of weights."""
        return all(
            edit.foldable if isinstance(edit, ProjectionEdit) else isinstance(edit, NormEdit | WeightEdit)
            for edit in self.shapes()
        )

    def __str__(self) -> str:
        settings = ",".join(f"{key}={value}" for key, value in catalogue()[self.name].examples[self.number].items())
        return f"{self.base_key}-{self.name}({settings})"


def every(cells: Iterable[Cell]) -> pytest.MarkDecorator:
    """A test of each of these cells."""
    return pytest.mark.parametrize("cell", list(cells), ids=str)


@cache
def table() -> Mapping[Cell, str]:
    """Every cell, with the reason why the method refuses the base, or ""."""
    cells = (
        Cell(key, name, number) for name, method in catalogue().items() for number in range(len(method.examples)) for key in BASES
    )
    return {cell: _refusal(cell) for cell in cells}


def _refusal(cell: Cell) -> str:
    try:
        cell.shapes()
    except (UnsupportedError, SiteError) as error:
        return str(error) or "no reason given"
    return ""


def count_of(name: str) -> Callable[[Any, Base], int]:
    """The formula of a method, written for its own test."""
    try:
        module = importlib.import_module(f"tests.methods.test_{name}")
        count: Callable[[Any, Base], int] = module.count
    except (ModuleNotFoundError, AttributeError):
        raise AssertionError(
            f"tests/methods/test_{name}.py must define count(method, base) -> int: the number of trained parameters by "
            "the formula of the method's docstring, from the model's own shapes."
        ) from None
    return count


SUPPORTED = [cell for cell, refusal in table().items() if not refusal]
REFUSED = [cell for cell, refusal in table().items() if refusal]
TRAINED = [cell for cell in SUPPORTED if cell.shapes().num_parameters]
"""All that train something."""
