"""The catalogue of methods as rows: the same for `lmtailor methods` and for the page in docs/.

What a method can do is found by trying it: its edits are built as shapes without memory, merged and put in PEFT's form.
"""

import re
from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, fields
from inspect import getdoc
from typing import Any

from lmtailor.base.base import Base
from lmtailor.cli.toy import toy_base
from lmtailor.core.errors import InputError, UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PrefixEdit, WeightEdit
from lmtailor.methods import catalogue
from lmtailor.methods.method import Method
from lmtailor.store.adapter import Adapter, new_adapter
from lmtailor.store.merge import merge
from lmtailor.store.peft.form import best_task, peft_form


@dataclass(frozen=True, kw_only=True)
class Count:
    """What a method would train in a base."""

    parameters: int
    sites: int
    """Places where it acts."""
    share: float
    """Of the base's parameters."""


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method."""

    name: str
    """On the command line."""
    python: str
    """Its class."""
    what: str
    settings: tuple[str, ...]
    """Each with its default, as `--set method.…` takes it."""
    sites: str
    """Where it acts with its default settings, as a pattern."""
    formula: str
    """Number of trained parameters."""
    merges: bool
    shares_batch: bool
    peft: bool
    """Whether PEFT can read it."""
    paper: str
    on_base: Count | None = None
    """In a named base, with default settings."""
    refused: str = ""
    """Why that base does not take it."""


def method_rows(base: Base | None = None) -> list[MethodRow]:
    """Every method, in alphabetical order.

    Args:
        base: where its parameters are counted; None counts none.
    """
    toy = toy_base()
    return [_row(name, method, toy, base) for name, method in catalogue().items()]


def _row(name: str, cls: type[Method], toy: Base, base: Base | None) -> MethodRow:
    method = _default(cls)
    adapter = new_adapter(toy, method=method)
    count, refused = (None, "") if base is None else _on(base, method)
    return MethodRow(
        name=name,
        python=cls.__name__,
        what=(getdoc(cls) or "").split("\n\n")[0].replace("\n", " "),
        settings=tuple(map(_setting, fields(cls))),
        sites=_pattern(adapter.edits),
        formula=cls.formula,
        merges=_merges(toy, adapter),
        shares_batch=adapter.edits.shares_batch,
        peft=_has_peft_form(adapter),
        paper=cls.paper,
        on_base=count,
        refused=refused,
    )


def _default(cls: type[Method]) -> Method:
    """The method with its defaults, or where it has none for some setting, the first of its examples."""
    required = any(field.default is MISSING and field.default_factory is MISSING for field in fields(cls))
    return cls(**cls.examples[0]) if required else cls()


def _on(base: Base, method: Method) -> tuple[Count | None, str]:
    try:
        edits = method.edits(base.sites.without_head(), None)
    except InputError as error:
        return None, str(error)
    count = edits.num_parameters
    return Count(parameters=count, sites=len(_places(edits)), share=count / base.num_parameters), ""


def _setting(field: "Field[Any]") -> str:
    if field.default is not MISSING:
        return f"{field.name}={_written(field.default)}"
    if field.default_factory is not MISSING:
        return f"{field.name}={_written(field.default_factory())}"
    return f"{field.name} (required)"


def _written(value: object) -> str:
    """A default as it would be typed."""
    if isinstance(value, bool | None):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _merges(base: Base, adapter: Adapter) -> bool:
    try:
        merge(base, adapter)
    except UnsupportedError:
        return False
    return True


def _has_peft_form(adapter: Adapter) -> bool:
    try:
        peft_form(adapter, best_task(adapter))
    except UnsupportedError:
        return False
    return True


def _places(edits: Edits) -> list[str]:
    """Names of the sites where edits act, each once; weights that are replaced have paths instead."""
    names = (edit.sites if isinstance(edit, PrefixEdit) else (edit.site,) for edit in edits)
    return list(dict.fromkeys(name for own in names for name in own))


def _pattern(edits: Edits) -> str:
    """Where edits act, in few words: `block.*.attn.{q,v}`, or "weights" where they are replaced whole."""
    if not edits:
        return "none"
    if any(isinstance(edit, WeightEdit) for edit in edits):
        return "weights"
    return ", ".join(_braced(re.sub(r"\bblock\.\d+", "block.*", name) for name in _places(edits)))


def _braced(names: Iterable[str]) -> list[str]:
    """Names that differ in their last part only, as one: a.{b,c}."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        start, _, last = name.rpartition(".")
        groups.setdefault(start, []).append(last)
    out: list[str] = []
    for start, ends in groups.items():
        joined = ends[0] if len(ends) == 1 else f"{{{','.join(ends)}}}"
        out += [f"{start}.{joined}"] if start else ends
    return out
