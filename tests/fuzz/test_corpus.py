"""Every crafted file and folder is refused in one line, quickly, and nothing is written."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmtailor.base.base import Base
from lmtailor.core.errors import AdapterFileError, UnsupportedError
from lmtailor.core.files import sha256
from lmtailor.methods.lora import LoRA
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.store.tensors import read_tensors
from tests.fuzz.corpus import FILES, FOLDERS, GOOD, WANTED, packed
from tests.fuzz.limited import ROOM
from tests.store.adapters import moved_adapter
from tests.tiny import tiny_base


@functools.cache
def bert() -> Base:
    return tiny_base("bert")


def good(folder: Path) -> Path:
    save_adapter(moved_adapter(bert(), LoRA(rank=2)), folder)
    return folder


def everything(folder: Path) -> dict[str, str]:
    """What a folder holds, with a digest of each file; links are not followed."""
    return {
        str(path.relative_to(folder)): "" if path.is_dir() or path.is_symlink() else sha256(path) for path in folder.rglob("*")
    }


def test_the_good_ones_are_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(packed(GOOD))
    assert {name: tuple(value.shape) for name, value in read_tensors(tmp_path / "x", WANTED).items()} == dict(WANTED)
    assert load_adapter(good(tmp_path / "adapter"), bert()).num_parameters > 0


@pytest.mark.parametrize("name", FILES)
def test_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(FILES[name])
    before = everything(tmp_path)
    with pytest.raises(AdapterFileError) as caught:
        read_tensors(path, WANTED)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 800
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder(tmp_path: Path, name: str) -> None:
    folder = good(tmp_path / "adapter")
    FOLDERS[name](folder)
    before = everything(tmp_path)
    with pytest.raises((AdapterFileError, UnsupportedError)) as caught:
        load_adapter(folder, bert())
    message = str(caught.value)
    assert str(folder) in message
    assert message.isprintable(), "one line, and nothing that a terminal obeys"
    assert len(message) < 2000
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "~nobody-has-this-name/x"])
def test_a_name_that_no_folder_has(name: str, tmp_path: Path) -> None:
    for path in (name, f"{tmp_path}/{name}"):
        with pytest.raises(AdapterFileError):
            load_adapter(path, bert())


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
def test_no_folder_takes_memory(tmp_path: Path) -> None:
    """All of them again, in a process that may take little more memory than it has."""
    for name in FOLDERS:
        FOLDERS[name](good(tmp_path / name.replace(" ", "_").replace("^", "")))
    good(tmp_path / "good")
    command = [sys.executable, "-m", "tests.fuzz.limited", str(tmp_path)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, env=dict(os.environ))
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == [str(len(FOLDERS)), "refused", "within", str(ROOM), "MB"]
