"""Prompts that a task proposes: named ways to put it to a language model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lmtailor.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A pattern with one gap and the words or columns that may fill it, or an input and what is written behind it."""

    name: str
    pattern: str
    """Such as "{sentence} It was {mask}."; where answers are written, the input, without a gap. Readouts parse it."""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label -> words; empty: those of the task's verbalizer."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Label -> the column whose text fills the gap, where each example brings its own choices."""
    target: str | None = None
    """Where answers are written: what is written behind the pattern, such as " {ref}"; None: the reference."""

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable():
            raise InputError(f"A pattern's name must be one line of text; found {self.name!r}.")


def named(patterns: Iterable["str | Prompt"]) -> tuple[Prompt, ...]:
    """Patterns as prompts: those without a name are called by their number, from 1.

    Raises:
        InputError: two have the same name.
    """
    prompts = tuple(
        one if isinstance(one, Prompt) else Prompt(name=str(number), pattern=one) for number, one in enumerate(patterns, start=1)
    )
    names = [one.name for one in prompts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"Two patterns are named {twice!r}. Patterns are chosen by name; give each its own.")
    return prompts
