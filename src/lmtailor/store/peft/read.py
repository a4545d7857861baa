"""Reading folders that PEFT wrote.

The tensors say which modules were trained. Names in the configuration are compared with them; a regular expression is not
run, since one from a stranger can run for ever, and PEFT's own tensors follow it.

A folder with a classification head says how many labels there are and not what they are called, nor of which columns
the text came: labels are called as in the base's configuration (LABEL_0, …), the column `text`.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError
from lmtailor.readouts.head import Head, HeadReading
from lmtailor.readouts.labels import LabelSet
from lmtailor.readouts.native import native_head
from lmtailor.store.adapter import READOUT, Adapter, outlined
from lmtailor.store.outline import Outline
from lmtailor.store.peft.config import TENSORS, check_config
from lmtailor.store.peft.extras import with_extras
from lmtailor.store.peft.kind import Folder, PeftKind, Shape
from lmtailor.store.peft.kinds import KINDS
from lmtailor.store.peft.task import TaskType, plain_task
from lmtailor.store.tensors import HEADER, check_shapes, read_header, read_tensors


def load_peft(folder: Path, config: Mapping[str, Any], base: Base) -> Adapter:
    """The adapter in a PEFT folder.

    Args:
        folder: holds adapter_model.safetensors.
        config: its configuration.
        base: what it was made for; its shapes are checked, but a PEFT folder holds no fingerprint.

    Raises:
        AdapterFileError: the folder is damaged, of another base, or asks for what has no equal here.
        UnsupportedError: PEFT itself does not do on this base what the folder asks for.
    """
    kind = _kind(config)
    outline = Outline.of(base)
    task = _task(config, kind, outline)
    header = read_header(folder / TENSORS, limit=HEADER + 8 * base.num_parameters)
    own = Folder(config=config, header=header, base=base, outline=outline, task=task)
    found = with_extras(own, kind.found(own)) if kind.by_module else kind.found(own)
    # Before anything is built from numbers of the configuration, they are compared with what the file really holds.
    check_shapes(folder / TENSORS, {name: header[name].shape for name in found.shapes if name in header}, found.shapes)
    rest = {name: info.shape for name, info in header.items() if name not in found.shapes}
    readout, labels = None, None
    if task == "SEQ_CLS":
        readout, labels = Head(pooling="native", virtual=found.virtual), _labels(rest, kind.head, base)
    elif rest:
        raise AdapterFileError(f"{next(iter(rest))[:120]!r} is in {TENSORS}, and has no equal in {kind.name} here.")
    adapter = outlined(base, found.method, readout, labels)
    head, held = _head(adapter, kind.head, rest, base)
    tensors = read_tensors(folder / TENSORS, {**found.shapes, **{name: rest[name] for name in head}})
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    read = held | {head[name]: tensor for name, tensor in tensors.items() if name in head}
    edits = found.edits(adapter.edits, {name: tensors[name] for name in found.shapes})
    loaded = replace(adapter, edits=edits)
    loaded = loaded.with_state(edits.state() | {f"{READOUT}{name}": value for name, value in read.items()})
    origin = {key: config.get(key) for key in ("peft_type", "task_type", "peft_version", "base_model_name_or_path")}
    return replace(loaded, provenance={"read_from": origin})


def _kind(config: Mapping[str, Any]) -> PeftKind:
    name = str(config.get("peft_type"))
    if name not in KINDS:
        raise AdapterFileError(f"It is of peft_type {name[:40]}, which is not read here; {', '.join(KINDS)} are.")
    kind = KINDS[name]
    check_config(config, name, kind.keys, kind.at_rest)
    return kind


def _task(config: Mapping[str, Any], kind: PeftKind, outline: Outline) -> TaskType:
    task = config.get("task_type")
    allowed: set[str | None] = {"SEQ_CLS", plain_task(outline), "FEATURE_EXTRACTION"}
    if kind.by_module:
        # The names of modules and the head decide; the generation classes add nothing.
        allowed |= {"CAUSAL_LM", "SEQ_2_SEQ_LM", None}
    elif task is None:
        raise AdapterFileError("task_type is null: PEFT itself ignores the prompt of such a folder. Set the task type.")
    if not isinstance(task, str | None) or task not in allowed:
        raise AdapterFileError(
            f"task_type is {str(task)[:40]}; for {kind.name} on a {outline.kind}, "
            f"{' and '.join(sorted(map(str, allowed)))} are read."
        )
    if task != "SEQ_CLS" and config.get("modules_to_save") and not kind.by_module:
        raise AdapterFileError(f"modules_to_save stores whole modules, which PEFT's {kind.name} has for SEQ_CLS alone.")
    return "SEQ_CLS" if task == "SEQ_CLS" else plain_task(outline)


def _labels(rest: Mapping[str, Shape], start: str, base: Base) -> LabelSet:
    """As many labels as the head's last layer has rows."""
    last = f"{native_head(base).out}.weight"
    shape = rest.get(f"{start}{last}", ())
    if len(shape) != 2:
        raise AdapterFileError(
            f"The folder is for classification, but {TENSORS} has no head ({start}{last}): PEFT would take a random one."
        )
    count = shape[0]
    named: Mapping[int, str] = base.model.config.to_dict().get("id2label") or {}
    labels = tuple(str(named[i]) if len(named) == count and i in named else f"LABEL_{i}" for i in range(count))
    if count == 1:
        return LabelSet(kind="regression", labels=(), texts=("text",))
    return LabelSet(kind="classification", labels=labels, texts=("text",))


def _head(adapter: Adapter, start: str, rest: Mapping[str, Shape], base: Base) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The file's names of the head's parameters, and those parameters that are the base's own.

    PEFT stores the classifier, but not what the model for classification takes from the checkpoint: BERT's pooler.
    """
    if not isinstance(adapter.reading, HeadReading) or adapter.reading.native is None:
        return {}, {}
    wanted = adapter.reading.parameters()
    if extra := [name for name in rest if name.removeprefix(start) not in wanted or not name.startswith(start)]:
        raise AdapterFileError(
            f"{extra[0][:120]!r} is in {TENSORS}, and is no part of the classification head of {base.family.name}."
        )
    held: dict[str, Tensor] = {}
    native = adapter.reading.native
    if native.pooler is not None and base.pooler is not None:
        held = {f"{native.pooler}.{name}": value for name, value in base.pooler.named_parameters()}
    if native.lm_module is not None:
        held |= {name: value for name, value in base.model.named_parameters() if name.startswith(f"{native.lm_module}.")}
    missing = [name for name in wanted if f"{start}{name}" not in rest]
    if lost := [name for name in missing if name not in held]:
        raise AdapterFileError(f"{TENSORS} lacks {lost[0]!r} of the classification head: PEFT would take a random one.")
    return {f"{start}{name}": name for name in wanted if name not in missing}, {
        name: held[name].detach().float().cpu().clone() for name in missing
    }
