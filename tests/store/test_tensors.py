"""Safetensors from strangers: everything that is not exactly what is wanted is one clear error."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmtailor.core.errors import AdapterFileError, InputError
from lmtailor.store import tensors as tensors_module
from lmtailor.store.tensors import read_header, read_tensors, room_for, write_tensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "block.0.attn.q.b#1": torch.ones(4, dtype=torch.bfloat16)}
SHAPES = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}


def crafted(path: Path, header: dict[str, Any] | bytes, data: bytes = b"", *, length: int | None = None) -> Path:
    """A file with this header, whatever it says."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(shape: list[Any], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS)
    back = read_tensors(path, SHAPES)
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in TENSORS.items())


def test_what_was_read_does_not_follow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(3)})
    back = read_tensors(path, {"a": (3,)})
    with path.open("r+b") as stream:
        stream.seek(-12, 2)
        stream.write(b"\xff" * 12)
    assert torch.equal(back["a"], torch.ones(3))


def test_shared_and_strided_tensors_are_written_as_they_look(tmp_path: Path) -> None:
    one = torch.arange(12.0).reshape(3, 4)
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": one, "b": one, "c": one.T, "d": one.requires_grad_()})
    back = read_tensors(path, {"a": (3, 4), "b": (3, 4), "c": (4, 3), "d": (3, 4)})
    assert torch.equal(back["c"], one.T)
    assert torch.equal(back["b"], back["a"])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match=r"not finite"):
        write_tensors(path, {"a": torch.tensor([1.0, bad])})
    crafted(path, {"a": entry([1], [0, 4])}, struct.pack("<f", bad))
    with pytest.raises(AdapterFileError, match=r"'a' holds numbers that are not finite"):
        read_tensors(path, {"a": (1,)})


def test_numbers_that_only_float64_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match=r"not finite"):
        write_tensors(path, {"a": torch.tensor([1e300], dtype=torch.float64)})
    crafted(path, {"a": entry([1], [0, 8], "F64")}, struct.pack("<d", 1e300))
    with pytest.raises(AdapterFileError, match=r"'a' holds numbers that are not finite in float32"):
        read_tensors(path, {"a": (1,)})
    crafted(path, {"a": entry([1], [0, 8], "F64")}, struct.pack("<d", 1e30))
    assert read_tensors(path, {"a": (1,)})["a"].item() == 1e30


DAMAGED: list[tuple[str, dict[str, Any] | bytes, bytes, int | None, str]] = [
    ("shape lies", {"a": entry([3], [0, 8])}, b"\0" * 8, None, "damaged"),
    ("cut off", {"a": entry([2], [0, 8])}, b"\0" * 7, None, "damaged"),
    ("bytes too many", {"a": entry([2], [0, 8])}, b"\0" * 9, None, "damaged"),
    ("overlap", {"a": entry([2], [0, 8]), "b": entry([2], [4, 12])}, b"\0" * 12, None, "damaged"),
    ("same bytes", {"a": entry([2], [0, 8]), "b": entry([2], [0, 8])}, b"\0" * 8, None, "damaged"),
    ("hole", {"a": entry([1], [0, 4]), "b": entry([1], [8, 12])}, b"\0" * 12, None, "damaged"),
    ("offsets beyond", {"a": entry([2], [1 << 40, (1 << 40) + 8])}, b"\0" * 8, None, "damaged"),
    ("negative", {"a": entry([-2], [0, 8])}, b"\0" * 8, None, "damaged"),
    ("a fraction", {"a": entry([2.0], [0, 8])}, b"\0" * 8, None, "damaged"),
    ("overflow", {"a": entry([1 << 62, 4], [0, 0])}, b"", None, "damaged"),
    ("unknown type", {"a": entry([2], [0, 8], "X9")}, b"\0" * 8, None, "damaged"),
    ("no type of ours", {"a": entry([2], [0, 8], "I32")}, b"\0" * 8, None, "'a' is of type I32"),
    ("bytes as numbers", {"a": entry([8], [0, 8], "F8_E4M3")}, b"\0" * 8, None, "is of type F8_E4M3"),
    ("a field too many", {"a": {**entry([2], [0, 8]), "x": 1}}, b"\0" * 8, None, "fields that mean nothing"),
    (
        "a name twice",
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}}',
        b"\0" * 8,
        None,
        "the key 'a' stands twice",
    ),
    ("nested", b'{"a":' * 5000 + b"1" + b"}" * 5000, b"", None, "damaged"),
    ("no JSON", b"not json at all", b"", None, "damaged"),
    ("a list", b"[]      ", b"", None, "damaged"),
    ("no UTF-8", b'{"\xff":1}', b"", None, "damaged"),
    ("huge header", {}, b"", 1 << 63, "cannot begin with a header of 9223372036854775808"),
    ("header beyond the file", {}, b"", 4096, "cannot begin with a header of 4096"),
    ("no header", b"", b"", 0, "cannot begin with a header of 0"),
]


@pytest.mark.parametrize(("header", "data", "length", "message"), [one[1:] for one in DAMAGED], ids=[one[0] for one in DAMAGED])
def test_damaged_and_hostile_headers(
    tmp_path: Path, header: dict[str, Any] | bytes, data: bytes, length: int | None, message: str
) -> None:
    path = crafted(tmp_path / "x.safetensors", header, data, length=length)
    with pytest.raises(AdapterFileError, match=message) as caught:
        read_header(path, limit=1 << 20)
    assert "x.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x01", b"\0" * 8, b"PK\x03\x04" + b"\0" * 100])
def test_files_that_are_something_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(AdapterFileError, match=r"no whole safetensors file|damaged"):
        read_header(path, limit=1 << 20)


def test_an_oversized_file_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # sparse: it takes no room on the disk
    monkeypatch.setattr(tensors_module, "safe_open", None)
    with pytest.raises(AdapterFileError, match=r"has 1099511627776 bytes, but what it should hold takes"):
        read_tensors(path, {"a": (2, 2)})


def test_other_tensors_than_wanted(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS)
    with pytest.raises(AdapterFileError, match=r"lacks 'more'\."):
        read_tensors(path, {**SHAPES, "more": (1,)})
    with pytest.raises(AdapterFileError, match=r"holds 'a', which this method and base do not have"):
        read_tensors(path, {name: shape for name, shape in SHAPES.items() if name != "a"})
    with pytest.raises(AdapterFileError, match=r"'a' has the shape \(2, 3\); this method and base need \(3, 2\)"):
        read_tensors(path, {**SHAPES, "a": (3, 2)})


@pytest.mark.parametrize("shape", [[0], [0, 1 << 60], [1 << 40, 0]])
def test_tensors_of_nothing_are_refused(tmp_path: Path, shape: list[Any]) -> None:
    """Their sizes cost no bytes, so they could claim any number of labels."""
    path = crafted(tmp_path / "x.safetensors", {"a": entry(shape, [0, 0])})
    with pytest.raises(AdapterFileError, match=r"'a' holds no numbers"):
        read_header(path, limit=1 << 20)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/tmp/x", "a\0b", "", "x" * 100_000])
def test_names_are_names_and_no_paths(tmp_path: Path, name: str) -> None:
    path = crafted(tmp_path / "x.safetensors", {name: entry([1], [0, 4])}, b"\0" * 4)
    with pytest.raises(AdapterFileError) as caught:
        read_tensors(path, {"a": (1,)})
    assert len(str(caught.value)) < 500
    assert {one.name for one in tmp_path.iterdir()} == {"x.safetensors"}


def test_a_missing_file_and_a_folder_in_its_place(tmp_path: Path) -> None:
    for path in (tmp_path / "x.safetensors", tmp_path):
        with pytest.raises(AdapterFileError, match=r"There is no file"):
            read_header(path, limit=1 << 20)


def test_room_counts_every_number_at_its_widest() -> None:
    assert room_for([(2, 3), (4,)]) - room_for([]) == 8 * 10


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A place for a file, and the bytes of a good one."""
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    write_tensors(path, TENSORS)
    return path, path.read_bytes()


def read_or_refuse(path: Path) -> dict[str, Tensor] | None:
    """The only two things that may happen."""
    try:
        return read_tensors(path, SHAPES)
    except AdapterFileError:
        return None


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_change_of_bytes_is_read_or_refused(good: tuple[Path, bytes], changes: list[tuple[int, int]]) -> None:
    path, data = good
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    path.write_bytes(bytes(changed))
    back = read_or_refuse(path)
    if back is not None:
        assert {name: tuple(tensor.shape) for name, tensor in back.items()} == SHAPES
        assert all(torch.isfinite(tensor).all() for tensor in back.values())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), tail=st.binary(max_size=40))
def test_any_cut_is_refused(good: tuple[Path, bytes], cut: int, tail: bytes) -> None:
    path, data = good
    changed = data[: cut % len(data)] + tail
    path.write_bytes(changed)
    back = read_or_refuse(path)
    assert back is None or len(changed) == len(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F64", "I64", "BOOL"]),
        "shape": st.lists(st.integers(0, 1 << 64), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(0, 1 << 64), max_size=2) | JSON,
    }
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.dictionaries(st.sampled_from(list(SHAPES)), ENTRIES | JSON, max_size=2), data=st.binary(max_size=40))
def test_any_header_is_read_or_refused(good: tuple[Path, bytes], header: dict[str, Any], data: bytes) -> None:
    path, _ = good
    crafted(path, header, data)
    read_or_refuse(path)
