"""Adapter folders: saving and loading.

    adapter.json                what the adapter is (see `manifest.py`)
    README.md                   the same for people
    adapter.safetensors         its tensors, under the names of `Adapter.state` and `Adapter.fixed`

Where PEFT has a form for the method, the method's tensors are stored once, in that form, and PEFT loads the folder as it stands:

    adapter_config.json         PEFT's settings
    adapter_model.safetensors   the method's tensors under PEFT's names; the head's too, if it is the family's own (SEQ_CLS)
    readout.safetensors         the tensors of any other readout, which PEFT does not look at

Our reader converts back, bit for bit. One file in two forms would let them differ, and twice the size buys nothing: all
that PEFT's form adds is zeros in fused projections and in the slots of an encoder-decoder's cross-attention.

Files are untrusted: the manifest is read strictly, the adapter is built from it as shapes without memory, and a tensor
file is compared with those shapes before it is read.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError, UnsupportedError
from lmtailor.core.files import sha256
from lmtailor.store.adapter import Adapter, on_device, refuse_other_base
from lmtailor.store.adapterhub import HUB_TENSORS, is_adapterhub, load_adapterhub
from lmtailor.store.card import model_card
from lmtailor.store.manifest import Manifest, TensorFiles
from lmtailor.store.native import NATIVE, READOUT_FILE, Blueprint, read_manifest, read_native
from lmtailor.store.peft.config import CONFIG, TENSORS
from lmtailor.store.peft.form import PeftForm, best_task, outline_of, peft_form
from lmtailor.store.peft.read import load_peft
from lmtailor.store.peft.task import plain_task
from lmtailor.store.place import MANIFEST, check_peft, check_place, check_tensors, inside, nothing_there, one_line
from lmtailor.store.strict_json import read_json
from lmtailor.store.tensors import write_tensors
from lmtailor.store.whole_folder import whole_folder

CARD = "README.md"
OWN = (MANIFEST, CARD, NATIVE, CONFIG, TENSORS, READOUT_FILE)
"""All that a save writes or removes; whatever else is in the folder stays."""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How an adapter is stored."""

    files: Mapping[str, Mapping[str, Tensor]]
    peft: PeftForm | None
    reason: str
    """Why PEFT cannot read it, or not all of it."""


def save_adapter(adapter: Adapter, folder: str | Path) -> None:
    """Store an adapter in a folder of its own, whole or not at all.

    An adapter that is there already is replaced; other files in the folder stay.

    Args:
        adapter: as `new_adapter`, `fit` or `load_adapter` gave it.
        folder: made if it does not exist.

    Raises:
        InputError: the folder cannot be written, holds a README.md that is not an adapter's, or a tensor is not finite.
    """
    path = Path(folder).expanduser()
    if (path / CARD).exists() and not (path / MANIFEST).exists() and not (path / CONFIG).exists():
        raise InputError(f"{path} holds a {CARD} and no adapter: it is for something else. Name another folder.")
    layout = _layout(adapter)
    with whole_folder(path, own=OWN) as part:
        for name, tensors in layout.files.items():
            write_tensors(part / name, tensors)
        if layout.peft is not None:
            write_json(part / CONFIG, layout.peft.config)
        (part / CARD).write_text(model_card(adapter, layout.peft, layout.reason), encoding="utf-8")
        stored = TensorFiles(
            layout="native" if layout.peft is None else "peft",
            task_type=None if layout.peft is None else layout.peft.task,
            sha256={name: sha256(part / name) for name in layout.files},
        )
        (part / MANIFEST).write_text(Manifest.of(adapter, stored).to_json(), encoding="utf-8")


def load_adapter(folder: str | Path, base: Base, *, any_base: bool = False) -> Adapter:
    """Read an adapter that `save_adapter`, PEFT or AdapterHub (as safetensors) wrote.

    Args:
        folder: where it is.
        base: what it was made for.
        any_base: take this base although the adapter names another. Shapes must still fit. Other programs' folders name none.

    Raises:
        AdapterFileError: there is no adapter, or it is damaged, hostile, unknown, or made for another base.
        UnsupportedError: a PEFT folder asks for what PEFT itself does not do on this base.
    """
    path = check_place(folder)
    with about(path):
        if (path / MANIFEST).is_file():
            adapter = _load_native(path, base, any_base)
        elif (path / CONFIG).is_file():
            adapter = _load_foreign(path, base)
        else:
            raise nothing_there(path)
    return on_device(adapter, base.device)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON file that reads the same whoever wrote it."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _layout(adapter: Adapter) -> _Layout:
    """PEFT's form of all of the adapter, else of its method with the readout apart, else our own form."""
    own = {} if adapter.reading is None else dict(adapter.reading.parameters())
    reason = ""
    for task in dict.fromkeys((best_task(adapter), plain_task(outline_of(adapter)))):
        try:
            form = peft_form(adapter, task)
        except UnsupportedError as error:
            reason = reason or str(error)
            continue
        if task == "SEQ_CLS" or not own:
            return _Layout(files={TENSORS: form.tensors}, peft=form, reason="")
        apart = f"The readout is not part of what PEFT loads. {reason}".strip()
        return _Layout(files={TENSORS: form.tensors, READOUT_FILE: own}, peft=form, reason=apart)
    return _Layout(files={NATIVE: {**adapter.state, **adapter.fixed}}, peft=None, reason=reason)


def _load_native(folder: Path, base: Base, any_base: bool) -> Adapter:
    manifest = read_manifest(folder)
    if not any_base:
        refuse_other_base(manifest.base.fingerprint, manifest.base.source, base)
    return read_native(folder, manifest, Blueprint.of(manifest, base), base)


def _load_foreign(folder: Path, base: Base) -> Adapter:
    config = read_json(inside(folder, CONFIG))
    if is_adapterhub(config):
        check_tensors(folder, HUB_TENSORS)
        inside(folder, HUB_TENSORS)
        return load_adapterhub(folder, config, base)
    check_peft(folder, config)
    inside(folder, TENSORS)
    return load_peft(folder, config, base)


@contextmanager
def about(folder: Path) -> Iterator[None]:
    """Errors are one line and name the folder that they are about; whatever input was wrong, it was in the adapter's files."""
    try:
        yield
    except UnsupportedError as error:
        raise UnsupportedError(one_line(f"{folder}: {error}")) from error
    except InputError as error:
        text = str(error)
        raise AdapterFileError(one_line(text if str(folder) in text else f"{folder}: {text}")) from error
    except OSError as error:
        raise AdapterFileError(f"{folder}: it cannot be read: {error.strerror or error}.") from error
