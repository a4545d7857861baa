"""Loads all folders in a folder in a process whose memory is limited: `python -m tests.fuzz.limited FOLDER`."""

import resource
import sys
from pathlib import Path

from lmtailor.core.errors import InputError
from lmtailor.store.folder import load_adapter
from tests.tiny import tiny_base

ROOM = 64
"""What may be taken besides what the process has when it begins (MB)."""


def taken() -> int:
    """Address space of this process (bytes)."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main(root: Path) -> None:
    """Load the good one first, so that what any load takes is there already; then the others."""
    base = tiny_base("bert")
    load_adapter(root / "good", base)
    limit = taken() + (ROOM << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    refused = 0
    for folder in sorted(path for path in root.iterdir() if path.name != "good"):
        try:
            load_adapter(folder, base)
        except InputError:
            refused += 1
    sys.stdout.write(f"{refused} refused within {ROOM} MB\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
