"""Tensor files that lie in the ways in which a header can: read as they are wanted, or refused."""

import functools
import importlib.util
import json
import os
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtailor.core.errors import AdapterFileError
from lmtailor.store.tensors import HEADER, read_header, read_tensors
from tests.fuzz.corpus import BODY, GOOD, WANTED, packed

BIG = [2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30]
NUMBERS: st.SearchStrategy[Any] = st.sampled_from([-1, 0, 1, 2, 3, 4, 6, 24, 40, *BIG, 1.5, True, None, "2", [], {}])
NAMES = st.sampled_from(
    ["a", "b.0", "c", "", "..", "../a", "/a", "a/../b", "a\0", "\ud800", "__metadata__", "é" * 50, "a" * 5000]
)
TYPES = st.sampled_from(["F32", "F64", "F16", "BF16", "I64", "I32", "BOOL", "F8_E4M3", "f32", "", None, 3, ["F32"], {"a": 1}])
FIELDS: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("dtype"), TYPES),
    st.tuples(st.just("shape"), st.lists(NUMBERS, max_size=4) | NUMBERS),
    st.tuples(st.just("data_offsets"), st.lists(NUMBERS, max_size=3) | NUMBERS),
    st.tuples(st.sampled_from(["url", "Dtype", ""]), NUMBERS),
)
LIES = st.one_of(
    st.tuples(st.just("field"), st.sampled_from(["a", "b.0"]), FIELDS),
    st.tuples(st.just("rename"), st.sampled_from(["a", "b.0"]), NAMES),
    st.tuples(st.just("add"), NAMES, st.fixed_dictionaries({"dtype": TYPES, "shape": st.lists(NUMBERS, max_size=3)})),
    st.tuples(st.just("metadata"), st.just(""), st.dictionaries(NAMES, NUMBERS, max_size=2) | NUMBERS),
    st.tuples(st.just("drop"), st.sampled_from(["a", "b.0", "__metadata__"]), st.none()),
)


@functools.cache
def place() -> Path:
    return Path(tempfile.mkdtemp()) / "x.safetensors"


def lied(lies: list[tuple[str, str, Any]]) -> dict[str, Any]:
    """A header with these changes."""
    header: dict[str, Any] = json.loads(json.dumps(GOOD))
    for what, name, value in lies:
        if what == "field" and isinstance(header.get(name), dict):
            header[name][value[0]] = value[1]
        elif what == "rename" and name in header:
            header[value] = header.pop(name)
        elif what == "add":
            header[name] = {"data_offsets": [40, 40], **value}
        elif what == "metadata":
            header["__metadata__"] = value
        elif what == "drop":
            header.pop(name, None)
    return header


def read_or_refused(data: bytes) -> None:
    """The only two things that may happen, and what Python may take for it."""
    path = place()
    path.write_bytes(data)
    tracemalloc.start()
    try:
        back = read_tensors(path, WANTED)
    except AdapterFileError as error:
        back, message = {}, str(error)
        assert len(message.splitlines()) == 1
        assert len(message) < 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (4 << 20) + 30 * len(data)  # the lies are of gigabytes; imports and caches of others are of megabytes
    assert not back or {name: tuple(value.shape) for name, value in back.items()} == dict(WANTED)
    assert all(torch.isfinite(value.float()).all() for value in back.values())
    assert {one.name for one in path.parent.iterdir()} == {path.name}


@settings(max_examples=400, deadline=None)
@given(lies=st.lists(LIES, min_size=1, max_size=3))
def test_a_header_that_lies(lies: list[tuple[str, str, Any]]) -> None:
    read_or_refused(packed(lied(lies)))


@settings(max_examples=150, deadline=None)
@given(
    length=st.sampled_from(BIG[:7]) | st.integers(0, 400),
    spaces=st.integers(0, 300),
    body=st.binary(max_size=60) | st.just(BODY),
)
def test_a_length_that_lies(length: int, spaces: int, body: bytes) -> None:
    read_or_refused(packed(json.dumps(GOOD).encode() + b" " * spaces, body, length=length))


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(width=32), min_size=10, max_size=10))
def test_any_numbers(values: list[float]) -> None:
    read_or_refused(packed(GOOD, struct.pack("<10f", *values)))


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(["a", "b.0", "__metadata__"]), value=st.sampled_from([GOOD["a"], GOOD["b.0"], {}]), first=st.booleans()
)
def test_a_key_twice(name: str, value: Any, first: bool) -> None:
    more, rest = f"{json.dumps(name)}: {json.dumps(value)}", json.dumps(GOOD)[1:-1]
    data = packed(("{" + (f"{more}, {rest}" if first else f"{rest}, {more}") + "}").encode())
    place().write_bytes(data)
    with pytest.raises(AdapterFileError, match="stands twice"):
        read_tensors(place(), WANTED)


def test_a_header_as_large_as_may_be() -> None:
    """It costs a small multiple of its size, and one byte more is not even read."""
    path = place()
    entries = {f"{i:07}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(40_000)}
    raw = json.dumps(entries, separators=(",", ":")).encode()
    path.write_bytes(packed(raw + b" " * (HEADER - len(raw)), b"\0" * 160_000))
    tracemalloc.start()
    assert len(read_header(path, limit=1 << 30)) == 40_000
    assert tracemalloc.get_traced_memory()[1] < 20 * HEADER
    path.write_bytes(packed(raw + b" " * (HEADER + 1 - len(raw)), b"\0" * 160_000))
    tracemalloc.reset_peak()
    with pytest.raises(AdapterFileError, match="cannot begin with a header of"):
        read_header(path, limit=1 << 30)
    tracemalloc.stop()


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_a_short_run_of_a_fuzzer_that_follows_coverage(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.corpus", str(tmp_path / "seeds")]
    subprocess.run(command, check=True, env=dict(os.environ))
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.atheris_target",
        str(tmp_path / "seeds"),
        "-runs=3000",
        "-max_len=1024",
        "-seed=1",
    ]
    run = subprocess.run(command, check=False, capture_output=True, text=True, env=dict(os.environ), cwd=Path.cwd())
    assert run.returncode == 0, run.stderr[-3000:]
    assert "Done 3000 runs" in run.stderr
