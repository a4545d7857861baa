"""Text files as text, with the place named where the bytes are not what they should be."""

import gzip
import zlib
from pathlib import Path

from lmtailor.core.errors import DataError, InputError

MAX_BYTES = 2 * 1024**3
"""The largest text file that is read whole (bytes)."""

PACKED_RATIO = 200
"""How many times its packed size a gzip file may hold: text packs about ten times smaller."""

PACKED_FREE = 64 * 1024**2
"""What it may hold however small it is (bytes)."""

_BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file, without a byte order mark and with its line ends as they are. A file `*.gz` is unpacked.

    Raises:
        InputError: the file is missing or cannot be read, or the encoding is not known.
        DataError: the file is empty or too large, packed or unpacked, or damaged, or its bytes are not in the encoding.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(
                f"{path} has {size / 1024**3:.1f} GiB; text files may have {MAX_BYTES // 1024**3}. Use Parquet, or split it."
            )
        data = _unpacked(path, size) if path.suffix.lower() == ".gz" else path.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise InputError(f"There is no encoding {encoding!r}. Common ones are utf-8, latin-1, cp1252 and utf-16.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not {encoding}: {_misfit(data, error)}") from error
    if not text.strip():
        raise DataError(f"{path} is empty.")
    return text


def _unpacked(path: Path, size: int) -> bytes:
    """What a gzip file holds, up to a limit, so that a small file cannot fill the memory."""
    limit = min(MAX_BYTES, max(PACKED_FREE, PACKED_RATIO * size))
    try:
        with gzip.open(path) as stream:
            data = stream.read(limit + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no gzip file, or it is damaged: {error}.") from error
    if len(data) > limit:
        raise DataError(
            f"{path} has {size} bytes and holds more than {limit / 1024**2:.0f} MiB. That is a text file's limit (2 GiB, and "
            f"{PACKED_RATIO} times the packed size beyond {PACKED_FREE // 1024**2} MiB). Unpack it yourself if you trust it."
        )
    return data


def _misfit(data: bytes, error: UnicodeDecodeError) -> str:
    line = data.count(b"\n", 0, error.start) + 1
    guess = _BOMS.get(data[:2], "latin-1")
    place = f"byte 0x{data[error.start]:02x} at offset {error.start} (line {line})"
    return f'{place}. If the file is {guess}, set encoding = "{guess}".'
