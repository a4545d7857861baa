"""The catalogue of methods as rows: the same for `lmtailor methods` and for the page in docs/.

What a method can do is found by trying it: its edits are built on a toy model, brought into the form in which they are kept
after training, merged and put in PEFT's form.
"""

import re
from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, fields, replace
from inspect import getdoc
from typing import Any

from lmtailor.base.base import Base
from lmtailor.cli.setting_texts import setting_texts
from lmtailor.cli.toy import toy_base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PrefixEdit, WeightEdit
from lmtailor.methods import catalogue
from lmtailor.methods.method import Finishes, Method, normal
from lmtailor.store.adapter import Adapter, build_adapter
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
    """Why that base does not take it, or where none is named, why it could not be tried."""


def method_rows(base: Base | None = None) -> list[MethodRow]:
    """Every method, in alphabetical order.

    Args:
        base: where its parameters are counted; None counts none.
    """
    toy = toy_base()
    return [_row(name, method, toy, base) for name, method in catalogue().items()]


def _row(name: str, cls: type[Method], toy: Base, base: Base | None) -> MethodRow:
    method = _default(cls)
    adapter, refused = _kept(cls, toy)
    count = None
    if base is not None:
        count, refused = _on(base, method)
    return MethodRow(
        name=name,
        python=cls.__name__,
        what=(getdoc(cls) or "").split("\n\n")[0].replace("\n", " "),
        settings=setting_texts(cls),
        sites="unknown" if adapter is None else _pattern(adapter.edits),
        formula=cls.formula,
        merges=adapter is not None and _merges(toy, adapter),
        shares_batch=adapter is not None and adapter.edits.shares_batch,
        peft=adapter is not None and _has_peft_form(adapter),
        paper=cls.paper,
        on_base=count,
        refused=refused,
    )


def _default(cls: type[Method]) -> Method:
    """The method with its defaults, or where they make none, the first of its examples."""
    try:
        return cls(**({} if all(_optional(field) for field in fields(cls)) else cls.examples[0]))
    except InputError:
        return cls(**cls.examples[0])


def _optional(field: "Field[Any]") -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _kept(cls: type[Method], toy: Base) -> tuple[Adapter | None, str]:
    """What is kept of the method after training: with its defaults, or the first of its examples that the toy model takes.

    The second is the reason why the model takes none.
    """
    reason = ""
    for method in (_default(cls), *(cls(**settings) for settings in cls.examples)):
        try:
            adapter = build_adapter(toy, method, None, None, generator(0, "start"))
        except InputError as error:
            reason = reason or str(error)
            continue
        if isinstance(method, Finishes):
            kept, edits = method.finished(_moved(adapter.edits))
            adapter = replace(adapter, method=kept, edits=edits)
        return adapter, ""
    return None, reason


def _moved(edits: Edits) -> Edits:
    """Edits away from their start, as after training: some methods keep nothing of what has not moved."""
    rng = generator(0, "moved")
    return edits.with_state({name: value + normal(value.shape, rng, std=0.1) for name, value in edits.state().items()})


def _on(base: Base, method: Method) -> tuple[Count | None, str]:
    try:
        edits = method.edits(base.sites.without_head(), None)
    except InputError as error:
        return None, str(error)
    count = edits.num_parameters
    return Count(parameters=count, sites=len(_places(edits)), share=count / base.num_parameters), ""


def _merges(base: Base, adapter: Adapter) -> bool:
    try:
        merge(base, adapter)
    except InputError:
        return False
    return True


def _has_peft_form(adapter: Adapter) -> bool:
    try:
        peft_form(adapter, best_task(adapter))
    except InputError:
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
