"""An adapter as PEFT stores it, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError, UnsupportedError
from lmtailor.edits.kinds import DenseWeight, PromptEdit
from lmtailor.methods import catalogue, method_name
from lmtailor.store.adapter import READOUT, Adapter
from lmtailor.store.outline import Outline
from lmtailor.store.peft.beside import Parts, whole_biases, whole_modules
from lmtailor.store.peft.kind import PREFIX, PeftKind, Target
from lmtailor.store.peft.kinds import KINDS
from lmtailor.store.peft.task import TaskType, head_modules, head_tensors, is_native, plain_task

VERSION = "0.21.2"
"""The version of PEFT whose format this is."""


@dataclass(frozen=True, kw_only=True)
class PeftForm:
    """The contents of a PEFT folder."""

    task: TaskType
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def best_task(adapter: Adapter) -> TaskType:
    """The task type under which PEFT can hold the whole adapter: SEQ_CLS with a native head."""
    return "SEQ_CLS" if is_native(adapter) else plain_task(outline_of(adapter))


def peft_form(adapter: Adapter, task: TaskType, base: Base | None = None) -> PeftForm:
    """The adapter's method as PEFT stores it, with SEQ_CLS its native head too. Meta tensors give meta tensors.

    Args:
        adapter: what is written.
        task: the task type of the folder.
        base: what it was made for, where it is at hand; trained biases have no form without it.

    Raises:
        UnsupportedError: PEFT has no form for it; the message says why.
    """
    outline, parts = outline_of(adapter), Parts.of(adapter)
    kind = _checked_kind(adapter, parts, task)
    target = Target(outline=outline, task=task, base=base)
    saved = (*head_modules(outline, _head(adapter, task)), *whole_modules(parts.modules, target)[0])
    own = kind.config(parts.own, replace(target, saved=saved))
    config = {
        "peft_type": kind.name,
        "task_type": task,
        "peft_version": VERSION,
        "auto_mapping": None,
        "base_model_name_or_path": adapter.base_source or None,
        "revision": None,
        "inference_mode": True,
        "modules_to_save": list(saved) or None,
    }
    if parts.biases:
        own["bias"] = "all"
    if _tied(parts):
        own["ensure_weight_tying"] = True
    return PeftForm(task=task, config={**config, **own}, tensors=_tensors(parts, kind, target))


def peft_tensors(adapter: Adapter, task: TaskType) -> dict[str, Tensor]:
    """The tensors of `peft_form` alone, for a base that is not at hand; raises like it for what no tensors can hold."""
    parts = Parts.of(adapter)
    return _tensors(parts, _checked_kind(adapter, parts, task), Target(outline=outline_of(adapter), task=task))


def _checked_kind(adapter: Adapter, parts: Parts, task: TaskType) -> PeftKind:
    if task == "SEQ_CLS":
        _check_pooling(adapter)
    kind, tied = _kind_of(parts), _tied(parts)
    outline = outline_of(adapter)
    if tied and (task == "SEQ_CLS" or outline.kind != "decoder" or not kind.ties_weights):
        raise UnsupportedError(
            f"{tied[0]} is the parameter of several modules of {outline.family}. PEFT would train one of them apart."
        )
    return kind


def _tied(parts: Parts) -> list[str]:
    """The parameters of several modules that are trained whole."""
    return [edit.site for edit in parts.modules if isinstance(edit, DenseWeight) and edit.site in outline_of(parts.whole).shared]


def _head(adapter: Adapter, task: TaskType) -> Mapping[str, Tensor]:
    return head_tensors(adapter) if task == "SEQ_CLS" else {}


def _tensors(parts: Parts, kind: PeftKind, target: Target) -> dict[str, Tensor]:
    own = kind.tensors(parts.own, target)
    biases = whole_biases(parts.biases, target, own)
    modules = {name: edit.value.detach() for name, edit in whole_modules(parts.modules, target)[1].items()}
    if twice := sorted(biases.keys() & modules.keys()):
        raise UnsupportedError(f"Two parts of the union train {twice[0].removeprefix(PREFIX)}, and PEFT trains it once.")
    head = {f"{kind.head}{name}": value.detach() for name, value in _head(parts.whole, target.task).items()}
    return own | biases | modules | head


def with_peft_tensors(adapter: Adapter, task: TaskType, tensors: Mapping[str, Tensor], readout: Mapping[str, Tensor]) -> Adapter:
    """An adapter of shapes, with the values of a PEFT file that `peft_form` gave.

    Args:
        adapter: as it was built without a generator.
        task: the task type of the file.
        tensors: all of the file.
        readout: the readout's own tensors by name; with SEQ_CLS they are in `tensors`.

    Raises:
        AdapterFileError: the file has numbers where this adapter has none, so PEFT would read another adapter from it.
    """
    parts, target = Parts.of(adapter), Target(outline=outline_of(adapter), task=task)
    kind = _kind_of(parts)
    modules = {edit.site: tensors[name] for name, edit in whole_modules(parts.modules, target)[1].items()}
    edits = parts.joined(kind.edits(parts.own, target, tensors), modules)
    if task == "SEQ_CLS":
        readout = {name: tensors[f"{kind.head}{name}"] for name in head_tensors(adapter)}
    loaded = replace(adapter, edits=edits)
    loaded = loaded.with_state(edits.state() | {f"{READOUT}{name}": value for name, value in readout.items()})
    again = _tensors(Parts.of(loaded), kind, target)
    if changed := [name for name, tensor in tensors.items() if not torch.equal(tensor, again[name])]:
        raise AdapterFileError(
            f"{changed[0]!r} has numbers where this adapter has zeros: PEFT would read another adapter than this one."
        )
    return loaded


def _kind_of(parts: Parts) -> PeftKind:
    """The type as which PEFT stores an adapter.

    Raises:
        UnsupportedError: it has none.
    """
    own = parts.own.method
    kind = next((kind for kind in KINDS.values() if isinstance(own, kind.writes)), None)
    if kind is None:
        known = sorted({name for name, method in catalogue().items() for kind in KINDS.values() if method in kind.writes})
        raise UnsupportedError(
            f"The method {method_name(own)} has no form in PEFT here; {', '.join(known[:-1])} and {known[-1]} have."
        )
    if parts.modules and not kind.by_module:
        raise UnsupportedError(f"PEFT trains no modules whole beside {method_name(own)}. Leave select out.")
    if parts.biases and not kind.trains_biases:
        raise UnsupportedError(f"PEFT trains no biases beside {method_name(own)}. Leave bitfit out.")
    return kind


def outline_of(adapter: Adapter) -> Outline:
    """The outline of the adapter's base.

    Raises:
        InputError: it has none.
    """
    if adapter.outline is None:
        raise InputError(
            "This adapter was put together by hand and knows nothing of its base. Make adapters with new_adapter or fit."
        )
    return adapter.outline


def _check_pooling(adapter: Adapter) -> None:
    """See that the head reads what it would read in PEFT.

    Raises:
        UnsupportedError: it does not.
    """
    outline, reading = outline_of(adapter), adapter.reading
    prompted = any(isinstance(edit, PromptEdit) for edit in adapter.edits)
    if prompted and outline.kind == "encoder" and reading is not None and not reading.virtual:
        raise UnsupportedError(
            "With a prompt before an encoder, PEFT pools the virtual tokens too; this head does not. Fit it with "
            "Head(pooling='native', virtual=True)."
        )
