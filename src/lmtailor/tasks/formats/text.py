"""Text files as text, with the place named where the bytes are not what they should be."""

from pathlib import Path

from lmtailor.core.errors import DataError, InputError

MAX_BYTES = 2 * 1024**3
"""The largest text file that is read whole (bytes)."""

_BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file, without a byte order mark and with its line ends as they are.

    Raises:
        InputError: the file is missing or cannot be read, or the encoding is not known.
        DataError: the file is empty or too large, or its bytes are not in the encoding.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(
                f"{path} has {size / 1024**3:.1f} GiB; text files may have {MAX_BYTES // 1024**3}. Use Parquet, or split it."
            )
        data = path.read_bytes()
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


def _misfit(data: bytes, error: UnicodeDecodeError) -> str:
    line = data.count(b"\n", 0, error.start) + 1
    guess = _BOMS.get(data[:2], "latin-1")
    place = f"byte 0x{data[error.start]:02x} at offset {error.start} (line {line})"
    return f'{place}. If the file is {guess}, set encoding = "{guess}".'
