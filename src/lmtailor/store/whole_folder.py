"""A folder that is whole or absent: it is written beside its place, synced, and renamed.

Replacing takes two renames, since no portable call swaps two folders: the old one steps aside as `.NAME.XXXX.old`, the
new one takes its place, what else was in the old one moves over, and the old one goes. A crash in between leaves the
old folder whole, under one name or the other; the next write puts it back first.
"""

import contextlib
import glob
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from lmtailor.core.errors import InputError
from lmtailor.core.files import disk_error, make_ordinary


@contextlib.contextmanager
def whole_folder(folder: Path, *, own: Collection[str]) -> Iterator[Path]:
    """An empty folder beside `folder` to write into; on success it takes its place, else it is removed.

    Args:
        folder: where it is to be. What is there under the names of `own` is replaced, everything else stays.
        own: names of all the files that the caller may ever write there.

    Raises:
        InputError: there is a file in its place, the disk is full, or the place cannot be written.
    """
    folder = Path(os.path.realpath(folder.expanduser()))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file. Name a folder.")
    part = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.part"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for old in leftovers(folder):
            _put_back(old, folder, own)
        part.mkdir()
        yield part
        for path in (*part.rglob("*"), part):
            if path.is_file():
                make_ordinary(path)
            _sync(path)
        _install(part, folder, own)
    except OSError as error:
        raise disk_error(error, folder) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def leftovers(folder: Path) -> list[Path]:
    """What an interrupted replacement of a folder has put aside."""
    return sorted(folder.parent.glob(f".{glob.escape(folder.name)}.{'[0-9a-f]' * 8}.old"))


def _install(part: Path, folder: Path, own: Collection[str]) -> None:
    old = part.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    _sync(folder.parent)
    if old.exists():
        _put_back(old, folder, own)


def _put_back(old: Path, folder: Path, own: Collection[str]) -> None:
    """Give a folder what was put aside: all of it if nothing came in its place, else what is not the caller's own."""
    if not folder.exists():
        old.rename(folder)
    else:
        for path in old.iterdir():
            if path.name not in own and not (folder / path.name).exists():
                path.rename(folder / path.name)
        shutil.rmtree(old)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk. Windows cannot open folders and does not need it."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
