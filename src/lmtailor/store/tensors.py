"""Tensors in safetensors files, also from strangers.

The `safetensors` library itself refuses headers beyond the file or above 100 MB, shapes that do not fit their bytes,
overlaps, gaps, bytes too many or too few, and sizes that overflow. It lets pass, and so is checked here: a name that
stands twice (readers disagree on which counts), fields that mean nothing, types that no adapter has, tensors of nothing
(whose other sizes no bytes vouch for), numbers that are not finite in float32, and sizes that are possible but absurd.
A file is compared with the tensors that are wanted before any is read.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmtailor.core.errors import AdapterFileError, InputError
from lmtailor.core.files import disk_error
from lmtailor.store.strict_json import parse_object

HEADER = 4 << 20
"""How large a header may be (bytes). Read, it takes some ten times as much."""
LENGTH = 8
"""Bytes of a header's length."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
"""What adapters are made of."""
EMPTY = (".lora_A", ".lora_B", ".lora_E")
"""Ends of names of tensors that may hold nothing: PEFT's AdaLoRA stores those of a module that has lost all its rank."""
METADATA = "__metadata__"


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """A tensor as a header describes it."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def room_for(shapes: Iterable[Iterable[int]]) -> int:
    """How large a file with tensors of these shapes can be (bytes), whatever their type."""
    total = 0
    for shape in shapes:
        size = 8
        for length in shape:
            size *= length
        total += size
    return LENGTH + HEADER + total


def read_header(path: Path, *, limit: int) -> dict[str, TensorInfo]:
    """What a file holds, by name. No tensor is read.

    Args:
        path: the file.
        limit: how large it may be (bytes).

    Raises:
        AdapterFileError: the file is not there, too large, damaged, or holds what no adapter has.
    """
    try:
        if not path.is_file():
            raise AdapterFileError(f"There is no file {path}. The adapter is incomplete; get it again.")
        size = path.stat().st_size
        if size > limit:
            raise AdapterFileError(
                f"{path} has {size} bytes, but what it should hold takes {limit} at most. It is not the file of this adapter."
            )
        with path.open("rb") as stream:
            start = stream.read(LENGTH)
            length = struct.unpack("<Q", start)[0] if len(start) == LENGTH else 0
            if not 0 < length <= min(HEADER, size - LENGTH):
                raise AdapterFileError(
                    f"{path} is no whole safetensors file: its {size} bytes cannot begin with a header of {length}. Get it again."
                )
            header = parse_object(stream.read(length))
        with safe_open(path, framework="pt"):
            return _described(header)
    except OSError as error:
        raise AdapterFileError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (SafetensorError, ValueError) as error:
        raise AdapterFileError(f"{path} is damaged ({_first_line(error)}). Get the adapter again.") from error


def read_tensors(path: Path, wanted: Mapping[str, Iterable[int]]) -> dict[str, Tensor]:
    """The tensors of a file, in memory of their own.

    Args:
        path: the file.
        wanted: the names and shapes that it must have, no more and no less.

    Raises:
        AdapterFileError: it has others, or numbers that are not finite; and as `read_header`.
    """
    shapes = {name: tuple(shape) for name, shape in wanted.items()}
    found = read_header(path, limit=room_for(shapes.values()))
    check_shapes(path, {name: info.shape for name, info in found.items()}, shapes)
    out: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as stream:
        for name in shapes:
            # The library's tensor is a view of the mapped file, which another program may change.
            out[name] = stream.get_tensor(name).clone()
    for name, tensor in out.items():
        if not _computable(tensor):
            raise AdapterFileError(
                f"{path}: {name[:120]!r} holds numbers that are not finite in float32. The adapter is broken; get another."
            )
    return out


def _computable(tensor: Tensor) -> bool:
    """Whether all numbers are finite, also in float32, in which adapters are computed."""
    wide = tensor.dtype == torch.float64
    return bool(torch.isfinite(tensor.float() if wide else tensor).all())


def check_shapes(path: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """See that a file has the tensors that are wanted.

    Raises:
        AdapterFileError: one is missing, left over, or of another shape.
    """
    if missing := sorted(wanted.keys() - found.keys()):
        raise AdapterFileError(f"{path} lacks {_some(missing)}.")
    if extra := sorted(found.keys() - wanted.keys()):
        raise AdapterFileError(f"{path} holds {_some(extra)}, which this method and base do not have.")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise AdapterFileError(
                f"{path}: {name!r} has the shape {_shown(found[name])}; this method and base need {_shown(shape)}."
            )


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a new file.

    Raises:
        InputError: a number is not finite, or the disk is full.
    """
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not _computable(tensor):
            raise InputError(
                f"{name} holds numbers that are not finite, so the adapter is not saved. Train it again at a lower rate."
            )
        # Tensors that share memory cannot be stored; clones share none.
        plain[name] = tensor.detach().to("cpu").contiguous().clone()
    try:
        save_file(plain, path, metadata={"format": "pt"})
    except OSError as error:
        raise disk_error(error, path) from error
    except SafetensorError as error:
        raise InputError(f"Cannot write {path}: {_first_line(error)}") from error


def _described(header: Mapping[str, object]) -> dict[str, TensorInfo]:
    """Entries of a header that the library has read already, so that their shapes and offsets are sound.

    Raises:
        ValueError: a field or a type that no adapter has.
    """
    out: dict[str, TensorInfo] = {}
    for name, entry in header.items():
        if name == METADATA:
            continue
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"the entry of {name[:80]!r} has fields that mean nothing")
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name[:80]!r} is of type {entry['dtype']}; adapters have {', '.join(DTYPES)}")
        if 0 in entry["shape"] and not name.endswith(EMPTY):
            raise ValueError(f"{name[:80]!r} holds no numbers; every tensor of an adapter holds some")
        out[name] = TensorInfo(dtype=DTYPES[entry["dtype"]], shape=tuple(entry["shape"]))
    return out


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return f"{names[0][:120]!r}{more}"


def _shown(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) <= 8 else f"({len(shape)} axes)"


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 300 else f"{line[:300]}…"
