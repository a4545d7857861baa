"""What strategies of prompt transfer start from: the prompts of other adapters."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError, TrainingError
from lmtailor.core.files import sha256
from lmtailor.edits.kinds import PrefixEdit, PromptEdit
from lmtailor.fit.start import start_digest
from lmtailor.methods import method_name
from lmtailor.store.adapter import Adapter
from lmtailor.store.folder import about, load_adapter
from lmtailor.store.native import NATIVE, read_manifest
from lmtailor.store.peft.config import TENSORS
from lmtailor.store.peft.prompts import NAME
from lmtailor.store.place import MANIFEST, check_place, inside
from lmtailor.store.tensors import read_header, read_tensors
from lmtailor.strategies.desk import Desk

_LARGEST = 1 << 30
"""The largest file of a prompt that is read without its base (bytes)."""


def load_sources(base: Base, folders: Sequence[str]) -> list[Adapter]:
    """Adapters of this base with prompts or prefixes.

    Raises:
        AdapterFileError: one is no adapter, or was made for another base.
        InputError: one trained something besides prompts, or no prompt at all.
    """
    sources = []
    for folder in folders:
        adapter = load_adapter(folder, base)
        others = [edit for edit in adapter.edits if not isinstance(edit, PromptEdit | PrefixEdit)]
        if others or not adapter.edits.state():
            what = f"changes {others[0].site}" if others else "has no trained virtual tokens"
            raise InputError(
                f"{folder} holds an adapter of {method_name(adapter.method)}, which {what}; prompts are transferred from soft "
                "prompts and prefixes alone."
            )
        sources.append(adapter)
    return sources


def check_unchanged(desk: Desk, sources: Sequence[Adapter]) -> None:
    """See that work that goes on has the sources that it began with.

    Raises:
        TrainingError: one is another now.
    """
    now = [start_digest(source.edits) for source in sources]
    if desk.result("sources", lambda: {"digests": now})["digests"] != now:
        raise TrainingError("A source adapter is not the one that this work began with. Choose another folder, or --overwrite.")


@dataclass(frozen=True, kw_only=True)
class ForeignPrompt:
    """A soft prompt of any base."""

    rows_NS: Tensor
    """Its virtual tokens (N, S), float32."""
    base_source: str
    """The base that it was made for."""
    digest: str
    """Of its numbers."""


def read_foreign_prompt(folder: str) -> ForeignPrompt:
    """A soft prompt from its folder, without its base.

    Raises:
        AdapterFileError: there is no adapter that `save_adapter` wrote, or it is damaged.
        InputError: it is no soft prompt before the input.
    """
    path = check_place(folder)
    with about(path):
        if not (path / MANIFEST).is_file():
            raise AdapterFileError(
                f"There is no {MANIFEST} in it: prompts of other bases are read from adapters of our own form."
            )
        manifest = read_manifest(path)
        name, settings = manifest.method.name, manifest.method.settings
        if name != "soft_prompt":
            raise InputError(f"It is an adapter of {name}; what can be projected is a soft prompt before the input.")
        place = settings.get("at", "input"), settings.get("place", "front")
        if place != ("input", "front"):
            raise InputError(
                f"Its prompt stands at {' and '.join(map(str, place))}; what can be projected stands before the input."
            )
        own = TENSORS if manifest.tensors.layout == "peft" else NATIVE
        file = inside(path, own)
        header = read_header(file, limit=_LARGEST)
        names = [name for name in header if name == NAME or name.endswith(".prompt_NH")]
        if len(names) != 1 or len(header[names[0]].shape) != 2:
            raise AdapterFileError(f"{own} does not hold one prompt of virtual tokens by features. It was changed by hand.")
        if sha256(file) != manifest.tensors.sha256.get(own):
            raise AdapterFileError(f"{own} is not the file that was saved with this adapter: its SHA-256 is another.")
        rows = read_tensors(file, {name: info.shape for name, info in header.items()})[names[0]].float()
    digest = hashlib.sha256(rows.contiguous().numpy().tobytes()).hexdigest()
    return ForeignPrompt(rows_NS=rows, base_source=manifest.base.source, digest=digest)


def folder_name(folder: str) -> str:
    """How a source is called in what is told."""
    return Path(folder).name
