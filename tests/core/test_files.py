"""Files that are whole or absent, and folders that one process has alone."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lmtailor.core.errors import InputError
from lmtailor.core.files import alone, write_text

HOLD = """
import sys, time
from pathlib import Path
from lmtailor.core.files import alone
with alone(Path(sys.argv[1])):
    print("inside", flush=True)
    time.sleep(600)
"""


def test_a_folder_belongs_to_one_process_until_it_ends_or_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "inside\n"
            with pytest.raises(InputError, match=r"Another process is writing to .*out\. Wait"), alone(folder):
                pass
        finally:
            other.kill()
    with alone(folder):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"], "no lock is left"


def test_a_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no"), alone(tmp_path / "out"):
        raise InputError("no")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Cannot write"), alone(tmp_path / "file" / "out"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
def test_a_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
