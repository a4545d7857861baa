"""Files that are whole or absent: everything is written beside its place and renamed."""

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from lmtailor.core.errors import InputError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is synced and renamed onto `path`, else removed.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise disk_error(error, path) from error
    part = Path(name)
    try:
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        make_ordinary(part)
        part.replace(path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing."""
    with atomic_path(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file or nothing."""
    write_bytes(path, text.encode("utf-8"))


def make_ordinary(path: Path) -> None:
    """Give a file the mode of any new file, as the umask says; temporary ones, and safetensors', are their owner's alone."""
    path.chmod(0o666 & ~_umask())


def inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`.

    Raises:
        InputError: the name leads out of the folder (`..`, an absolute path, a symbolic link).
    """
    root = folder.resolve()
    path = (root / name).resolve()
    if path == root or root not in path.parents:
        raise InputError(f"{name!r} leads out of {folder}. Names must stay inside their folder.")
    return path


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other process is inside with the same folder. A killed process holds nothing, and an empty folder is removed.

    Raises:
        InputError: another process is, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise InputError(f"Another process is writing to {folder}. Wait until it has ended, or choose another folder.") from None
    except OSError as error:
        raise disk_error(error, folder) from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):
            folder.rmdir()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def disk_error(error: OSError, path: Path) -> InputError:
    """An OSError of writing, as one clear sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"No space left on the disk while writing {path}. Nothing was changed; free some space and run again.")
    return InputError(f"Cannot write {path}: {error.strerror or error}.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
