"""Folders of other programs whose headers or settings are others: read, or refused in one line."""

import copy
import functools
import json
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError, UnsupportedError
from lmtailor.methods import catalogue
from lmtailor.readouts.head import Head
from lmtailor.store.folder import load_adapter, save_adapter
from tests.fuzz.corpus import packed
from tests.fuzz.test_folders import NASTY
from tests.parity.adapterhub import stored
from tests.store.adapters import moved_adapter
from tests.store.test_hostile import NoLargeTensors
from tests.tiny import tiny_base

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}
CHANGES = st.tuples(
    st.sampled_from(["drop", "size", "axis", "scalar", "type", "rename", "copy"]),
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 3, 7, 48, 64]),
    st.sampled_from(list(BYTES)),
    st.sampled_from([("lora_A", "lora_B"), ("weight", "bias"), ("layer.0", "layer.999"), ("layer.0", "layer.-1"), (".", "/")]),
)


@functools.cache
def bert() -> Base:
    return tiny_base("bert")


@functools.cache
def folders() -> list[Path]:
    """One of each form of PEFT's, without our manifest; every other with the family's own head."""
    root = Path(tempfile.mkdtemp())
    for name, cls in catalogue().items():
        for number, example in enumerate(cls.examples):
            folder = root / f"{name}{number}"
            try:
                save_adapter(moved_adapter(bert(), cls(**example), (None, Head(pooling="native"))[number % 2]), folder)
            except InputError:
                continue
            (folder / "adapter.json").unlink()
    return sorted(path for path in root.iterdir() if (path / "adapter_config.json").exists())


def read_or_refused(folder: Path, base: Base) -> None:
    """The only two things that may happen."""
    message = "read"
    with NoLargeTensors():  # type: ignore[no-untyped-call]
        try:
            load_adapter(folder, base)
        except (AdapterFileError, UnsupportedError) as error:
            message = str(error)
    assert message.isprintable()
    assert len(message) < 2000


def changed(tensors: dict[str, tuple[str, list[int]]], change: tuple[str, int, int, str, tuple[str, str]]) -> None:
    """One change of a header's types and shapes by name."""
    what, number, size, dtype, (old, new) = change
    name = sorted(tensors)[number % len(tensors)]
    own, shape = tensors[name]
    if what == "drop" and len(tensors) > 1:
        del tensors[name]
    elif what == "size" and shape:
        axis = number % len(shape)
        tensors[name] = own, [*shape[:axis], size, *shape[axis + 1 :]]
    elif what in ("axis", "scalar"):
        tensors[name] = own, [*shape, 1] if what == "axis" else []
    elif what == "type":
        tensors[name] = dtype, shape
    elif what in ("rename", "copy"):
        tensors[name.replace(old, new)] = tensors.pop(name) if what == "rename" else (own, shape)


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_any_header_of_peft_s(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(folders()))
    work = source.parent.parent / f"{source.parent.name}-work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work)
    path = work / "adapter_model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    entries = json.loads(raw[8 : 8 + length])
    tensors = {name: (entry["dtype"], entry["shape"]) for name, entry in entries.items() if name != "__metadata__"}
    for change in data.draw(st.lists(CHANGES, min_size=1, max_size=3)):
        changed(tensors, change)
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start = end
        count = 1
        for size in shape:
            count *= size
        end += BYTES[dtype] * count
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    path.write_bytes(packed(header, b"\1" * end))
    read_or_refused(work, bert())


@functools.cache
def place() -> Path:
    return Path(tempfile.mkdtemp())


CASES = ("pfeiffer", "parallel", "compacter", "lora", "loreft")


@settings(max_examples=150, deadline=None)
@given(case=st.sampled_from(CASES), data=st.data())
def test_any_setting_of_adapterhub_s(case: str, data: st.DataObject) -> None:
    one, folder = stored("bert"), place()
    one.write(case, folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    for table in (config, config["config"]):
        for key in data.draw(st.lists(st.sampled_from(sorted(table)), max_size=1)):
            table[key] = copy.deepcopy(data.draw(NASTY))
    path.write_text(json.dumps(config), "utf-8")
    read_or_refused(folder, one.base)
