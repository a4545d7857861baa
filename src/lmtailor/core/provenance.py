"""Where a result comes from: versions, source revision, machine, time."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("lmtailor", "torch", "transformers", "safetensors", "tokenizers", "numpy", "accelerate")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def revision() -> str | None:
    """The git commit of the package's source, if it runs from a checkout."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        out = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603 - nothing in it is given by others
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip() or None


def hardware() -> dict[str, str | int]:
    """The machine: processor architecture, cores, system."""
    return {"machine": platform.machine(), "cores": os.cpu_count() or 1, "system": platform.system()}


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
