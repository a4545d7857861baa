"""Reading a folder that `save_adapter` wrote: manifest → shapes without memory → tensors.

Adapters of the same settings have the same shapes, so that these are found once for all of them (`Blueprint`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError
from lmtailor.core.files import sha256
from lmtailor.core.settings import from_mapping, to_mapping
from lmtailor.methods import method_class
from lmtailor.readouts.registry import get_readout
from lmtailor.store.adapter import Adapter, outlined
from lmtailor.store.manifest import Manifest, TensorFiles
from lmtailor.store.outline import Outline
from lmtailor.store.peft.config import TENSORS
from lmtailor.store.peft.form import peft_tensors, with_peft_tensors
from lmtailor.store.peft.task import TaskType
from lmtailor.store.place import MANIFEST, inside
from lmtailor.store.strict_json import read_json
from lmtailor.store.tensors import check_shapes, read_header, read_tensors, room_for

NATIVE = "adapter.safetensors"
READOUT_FILE = "readout.safetensors"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What adapters of the same settings share."""

    shapes: Adapter
    """The adapter as shapes without memory."""
    files: Mapping[str, Shapes]
    """Its files, with the names and shapes in each."""

    @classmethod
    def of(cls, manifest: Manifest, base: Base, outline: Outline | None = None) -> "Blueprint":
        """That of an adapter.

        Args:
            manifest: the adapter's.
            base: what it was made for.
            outline: the base's, if it is at hand.

        Raises:
            AdapterFileError: the manifest and the base do not go together.
        """
        shapes = _rebuilt(manifest, base, outline)
        return cls(shapes=shapes, files=_expected(shapes, manifest.tensors))

    @staticmethod
    def key(manifest: Manifest) -> str:
        """What is equal where the blueprint is."""
        readout = None if manifest.readout is None else [manifest.readout.name, dict(manifest.readout.settings)]
        labels = None if manifest.labels is None else to_mapping(manifest.labels)
        method = [manifest.method.name, dict(manifest.method.settings)]
        tensors = [manifest.tensors.layout, manifest.tensors.task_type]
        return json.dumps([method, readout, labels, tensors, list(manifest.sites)], sort_keys=True)


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a folder.

    Raises:
        InputError: it is none.
    """
    return Manifest.from_json(read_json(inside(folder, MANIFEST)))


def check_files(folder: Path, manifest: Manifest, blueprint: Blueprint) -> int:
    """See that the headers of the files promise what the adapter needs; no tensor is read.

    Returns:
        How large the files are (bytes).

    Raises:
        AdapterFileError: they do not.
    """
    _check_names(manifest, blueprint)
    size = 0
    for name, shapes in blueprint.files.items():
        path = inside(folder, name)
        found = read_header(path, limit=room_for(shapes.values()))
        check_shapes(path, {key: info.shape for key, info in found.items()}, shapes)
        size += path.stat().st_size
    return size


def read_native(folder: Path, manifest: Manifest, blueprint: Blueprint, base: Base) -> Adapter:
    """The adapter with its tensors.

    Raises:
        AdapterFileError: the files are not those of such an adapter, or not those that were saved with it.
    """
    _check_names(manifest, blueprint)
    shapes = blueprint.shapes
    tensors = {name: _read(folder, name, own, manifest.tensors.sha256[name]) for name, own in blueprint.files.items()}
    if manifest.tensors.layout == "native":
        fixed = {name: tensors[NATIVE].pop(name) for name in shapes.fixed}
        loaded = shapes.with_state(tensors[NATIVE]).with_fixed(fixed)
        for edit in loaded.edits:
            edit.check(base.sites)
    else:
        loaded = with_peft_tensors(shapes, _task(manifest.tensors), tensors[TENSORS], tensors.get(READOUT_FILE, {}))
    source = manifest.base.source if manifest.base.fingerprint == base.fingerprint else base.source
    return replace(loaded, base_source=source, scores=manifest.scores, provenance=manifest.provenance)


def _check_names(manifest: Manifest, blueprint: Blueprint) -> None:
    if blueprint.files.keys() != manifest.tensors.sha256.keys():
        raise AdapterFileError(
            f"It lists the files {sorted(manifest.tensors.sha256)}, but such an adapter has {sorted(blueprint.files)}. "
            "It was changed by hand."
        )


def _rebuilt(manifest: Manifest, base: Base, outline: Outline | None) -> Adapter:
    """The adapter that the manifest describes, as shapes without memory."""
    method = from_mapping(method_class(manifest.method.name), manifest.method.settings, path="method.settings")
    readout = None
    if manifest.readout is not None:
        if manifest.labels is None:
            raise AdapterFileError("It has a readout but no labels.")
        readout = from_mapping(get_readout(manifest.readout.name), manifest.readout.settings, path="readout.settings")
    adapter = outlined(base, method, readout, manifest.labels, outline)
    if sites := set(manifest.sites) ^ {edit.site for edit in adapter.edits}:
        raise AdapterFileError(
            f"Its sites are not those that its method has on this base; they differ in {min(sites)!r}. It was changed by "
            "hand, or the base is of another architecture."
        )
    return adapter


def _expected(adapter: Adapter, stored: TensorFiles) -> dict[str, dict[str, tuple[int, ...]]]:
    """The files of an adapter, with the names and shapes in each."""
    if stored.layout == "native":
        return {NATIVE: {name: tuple(tensor.shape) for name, tensor in {**adapter.state, **adapter.fixed}.items()}}
    task = _task(stored)
    files = {TENSORS: {name: tuple(tensor.shape) for name, tensor in peft_tensors(adapter, task).items()}}
    if task != "SEQ_CLS" and adapter.reading is not None and adapter.reading.parameters():
        files[READOUT_FILE] = {name: tuple(tensor.shape) for name, tensor in adapter.reading.parameters().items()}
    return files


def _task(stored: TensorFiles) -> TaskType:
    return from_mapping(_Task, {"task_type": stored.task_type}, path="tensors").task_type


@dataclass(frozen=True, kw_only=True)
class _Task:
    task_type: TaskType


def _read(folder: Path, name: str, shapes: Mapping[str, tuple[int, ...]], digest: str) -> dict[str, Tensor]:
    path = inside(folder, name)
    tensors = read_tensors(path, shapes)
    if sha256(path) != digest:
        raise AdapterFileError(f"{path} is not the file that was saved with this adapter: its SHA-256 is another. Get it again.")
    return tensors
