"""The reader of tensor files under libFuzzer, by coverage: `python -m tests.fuzz.atheris_target CORPUS -runs=100000`.

Needs the package `atheris`. Whatever the bytes are, the file is read or refused; anything else is a finding.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from lmtailor.core.errors import AdapterFileError
from lmtailor.store import strict_json, tensors
from tests.fuzz.corpus import WANTED

atheris: Any = importlib.import_module("atheris")


def main() -> None:
    """Run until the arguments say stop."""
    path = Path(tempfile.mkdtemp()) / "x.safetensors"

    def one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            tensors.read_tensors(path, WANTED)
        except AdapterFileError:
            return

    for module in (strict_json, tensors):
        for name, value in list(vars(module).items()):
            if getattr(value, "__module__", "") == module.__name__ and callable(value) and not isinstance(value, type):
                setattr(module, name, atheris.instrument_func(value))
    atheris.Setup(sys.argv, one)
    try:
        atheris.Fuzz()
    finally:
        path.unlink(missing_ok=True)
        path.parent.rmdir()


if __name__ == "__main__":
    main()
