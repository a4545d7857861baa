"""An adapter as PEFT stores it, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lmtailor.core.errors import AdapterFileError, InputError, UnsupportedError
from lmtailor.edits.edits import Edits
from lmtailor.edits.kinds import PromptEdit
from lmtailor.methods import method_name
from lmtailor.methods.lora import LoRA
from lmtailor.methods.prefix import Prefix
from lmtailor.methods.soft_prompt import SoftPrompt
from lmtailor.store.adapter import READOUT, Adapter
from lmtailor.store.outline import Outline
from lmtailor.store.peft.lora import PREFIX, blocks_of, lora_config, lora_edits, lora_tensors
from lmtailor.store.peft.prompts import prefix_config, prefix_tensors, prompt_config, prompt_edits, prompt_tensors
from lmtailor.store.peft.task import TaskType, head_modules, head_tensors, is_native, plain_task

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
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


def peft_form(adapter: Adapter, task: TaskType) -> PeftForm:
    """The adapter's method as PEFT stores it, with SEQ_CLS its native head too. Meta tensors give meta tensors.

    Raises:
        UnsupportedError: PEFT has no form for it; the message says why.
    """
    outline = outline_of(adapter)
    head: Mapping[str, Tensor] = {}
    if task == "SEQ_CLS":
        _check_pooling(adapter)
        head = head_tensors(adapter)
    saved = head_modules(outline, head)
    if isinstance(adapter.method, LoRA):
        blocks = blocks_of(adapter.edits, outline, task)
        kind, own = "LORA", lora_config(adapter.method, blocks, outline, task, saved)
        tensors = lora_tensors(blocks)
    elif isinstance(adapter.method, Prefix):
        kind, own = "PREFIX_TUNING", prefix_config(adapter.edits, outline, task)
        tensors = prefix_tensors(adapter.edits, outline)
    elif isinstance(adapter.method, SoftPrompt):
        kind, own = "PROMPT_TUNING", prompt_config(adapter.edits, outline, task)
        tensors = prompt_tensors(adapter.edits)
    else:
        raise UnsupportedError(
            f"The method {method_name(adapter.method)} has no form in PEFT here; lora, prefix and soft_prompt have."
        )
    start = head_prefix(kind)
    config = {
        "peft_type": kind,
        "task_type": task,
        "peft_version": VERSION,
        "auto_mapping": None,
        "base_model_name_or_path": adapter.base_source or None,
        "revision": None,
        "inference_mode": True,
        "modules_to_save": saved or None,
    }
    return PeftForm(
        task=task,
        config={**config, **own},
        tensors={**tensors, **{f"{start}{name}": value.detach() for name, value in head.items()}},
    )


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
    outline = outline_of(adapter)
    edits = _edits(adapter, outline, task, tensors)
    if task == "SEQ_CLS":
        start = head_prefix("LORA" if isinstance(adapter.method, LoRA) else "")
        readout = {name: tensors[f"{start}{name}"] for name in head_tensors(adapter)}
    loaded = adapter.with_state(edits.state() | {f"{READOUT}{name}": value for name, value in readout.items()})
    again = peft_form(replace(loaded), task).tensors
    if changed := [name for name, tensor in tensors.items() if not torch.equal(tensor, again[name])]:
        raise AdapterFileError(
            f"{changed[0]!r} has numbers where this adapter has zeros: PEFT would read another adapter than this one."
        )
    return loaded


def head_prefix(kind: str) -> str:
    """What stands before the names of a head's tensors."""
    return PREFIX if kind == "LORA" else "base_model."


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


def _edits(adapter: Adapter, outline: Outline, task: TaskType, tensors: Mapping[str, Tensor]) -> Edits:
    if isinstance(adapter.method, LoRA):
        return lora_edits(adapter.edits, blocks_of(adapter.edits, outline, task), tensors)
    return prompt_edits(adapter.edits, outline, tensors)


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
