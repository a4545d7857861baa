"""A folder of any method, with anything in its settings: read, or refused in one line; no memory taken, nothing written."""

import copy
import functools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, InputError, UnsupportedError
from lmtailor.methods import catalogue
from lmtailor.readouts.head import Head
from lmtailor.store.folder import load_adapter, save_adapter
from tests.store.adapters import WORDS, moved_adapter
from tests.store.test_hostile import NoLargeTensors
from tests.tiny import tiny_base

NUMBERS = [-(2**63), -1, 0, 1, 3, 10**6, 10**9, 10**12, 10**15, 10**18, 2**63, 2**64 - 1, 2**64, 5e-324, -0.5, 0.5, 1e38, 1e300]
TEXTS = ["", " ", "\n", "\0", "\ud800", "lora", "../../x", "/etc/passwd", "{mask}", "{sentence}", "{mask} {mask}", "x" * 3000]
PATTERNS = [
    "block.*",
    "block.[::0]",
    "block.[-1]",
    "block.[99]",
    "{,}" * 30 + "x",
    "*" * 50,
    "," * 50,
    "{",
    "[",
    "lm_head",
    "block.*.*",
]
TABLES: list[Any] = [
    None,
    True,
    [],
    {},
    [[]],
    [1],
    ["a"],
    {"a": 1},
    {"name": "lora"},
    {"name": "union", "parts": [{"name": "lora"}] * 3},
]
NASTY = st.sampled_from([*NUMBERS, *TEXTS, *PATTERNS, *TABLES])


@functools.cache
def bert() -> Base:
    return tiny_base("bert")


@functools.cache
def folders() -> list[Path]:
    """One of each method in each of its ways, with readouts in turn."""
    root = Path(tempfile.mkdtemp())
    out: list[Path] = []
    for name, cls in catalogue().items():
        for number, example in enumerate(cls.examples):
            folder = root / f"{name}{number}"
            readout = (None, Head(), WORDS)[len(out) % 3]
            try:
                save_adapter(moved_adapter(bert(), cls(**example), readout), folder)
            except InputError:
                continue
            out.append(folder)
    return out


def places(value: Any, start: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a JSON value."""
    if start:
        yield start
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*start, key))


def put(whole: Any, path: tuple[Any, ...], value: Any) -> None:
    """Change a value, if the path still leads to one."""
    try:
        for key in path[:-1]:
            whole = whole[key]
        whole[path[-1]] = copy.deepcopy(value)
    except (KeyError, IndexError, TypeError):
        return  # another change has put something else there


def changed(data: st.DataObject, file: str) -> Path:
    """A copy of some folder in which some values of a file are others."""
    source = data.draw(st.sampled_from([folder for folder in folders() if (folder / file).exists()]))
    work = source.parent.parent / f"{source.parent.name}-work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work)
    if file != "adapter.json":
        (work / "adapter.json").unlink()
    values = json.loads((work / file).read_text("utf-8"))
    chosen = [path for path in places(values) if path[0] not in ("base", "scores", "provenance", "sites")]
    for path in data.draw(st.lists(st.sampled_from(chosen), min_size=1, max_size=2)):
        put(values, path, data.draw(NASTY))
    (work / file).write_text(json.dumps(values), "utf-8")
    return work


@pytest.mark.parametrize("file", ["adapter.json", "adapter_config.json"])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_value(file: str, data: st.DataObject) -> None:
    folder = changed(data, file)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    message = "read"
    with NoLargeTensors():  # type: ignore[no-untyped-call]
        try:
            load_adapter(folder, bert())
        except (AdapterFileError, UnsupportedError) as error:
            message = str(error)
    assert message.isprintable()
    assert len(message) < 2000
    assert sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()) == before
