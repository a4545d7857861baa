"""Finding an adapter in a folder, and saying what is there instead."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmtailor.core.errors import AdapterFileError, near
from lmtailor.store.peft.config import CONFIG, TENSORS
from lmtailor.store.peft.kinds import KINDS
from lmtailor.store.whole_folder import leftovers

MANIFEST = "adapter.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
LONGEST = 1500
"""Characters of a message about a folder."""
_NEVER = (
    "which can run code when it is read, so it is never opened. Load it with PEFT where you trust it, and save it as safetensors."
)


def check_place(folder: str | Path) -> Path:
    """The path of a folder, with `~` for somebody's own folder put in.

    Raises:
        AdapterFileError: it is none; the message says what is there, or near.
    """
    try:
        path = Path(folder).expanduser()
        if path.is_dir():
            return path
        raise _no_folder(path)
    except (OSError, ValueError, RuntimeError) as error:  # a name that is too long, or no name; a ~ that is nobody's
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise AdapterFileError(f"{str(folder)[:120]!r} can be no folder: {reason}.") from error


def _no_folder(path: Path) -> AdapterFileError:
    if path.exists() and path.suffix in PICKLES:
        return AdapterFileError(f"{path} is a pickle, {_NEVER}")
    if path.exists():
        return AdapterFileError(f"{path} is a file. Name the folder of the adapter, which holds {MANIFEST} or {CONFIG}.")
    if aside := leftovers(path.resolve()):
        return AdapterFileError(
            f"There is no folder {path}: a save was interrupted while it replaced it. The old adapter is {aside[-1]}; "
            f"rename it to {path}."
        )
    siblings = [str(path.parent / one.name) for one in path.parent.iterdir() if one.is_dir()] if path.parent.is_dir() else []
    return AdapterFileError(f"There is no folder {path}. {near(str(path), siblings) if siblings else ''}".rstrip())


def nothing_there(folder: Path) -> AdapterFileError:
    """The error for a folder without an adapter."""
    inner = sorted(path.name for path in folder.iterdir() if (path / MANIFEST).is_file() or (path / CONFIG).is_file())
    if len(inner) == 1:
        return AdapterFileError(f"There is no adapter in it, but one in the folder {inner[0]!r} in it. Name that folder.")
    if inner:
        return AdapterFileError(
            f"There is no adapter in it, but {len(inner)} in folders in it: {', '.join(inner[:10])}. Name one."
        )
    if (folder / "config.json").exists():
        return AdapterFileError("It is a model, not an adapter. Load it with load_base.")
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    return AdapterFileError(f"There is no adapter in it: neither {MANIFEST} nor {CONFIG}. It holds {held}.")


def check_peft(folder: Path, config: Mapping[str, Any]) -> None:
    """See that a folder with an `adapter_config.json` is PEFT's and has tensors that can be read.

    Raises:
        AdapterFileError: it is not, or has not.
    """
    if "peft_type" not in config:
        raise AdapterFileError(
            f"{CONFIG} has no peft_type, so it is not PEFT's; nor is it AdapterHub's. Known types are {', '.join(KINDS)}."
        )
    check_tensors(folder, TENSORS)


def check_tensors(folder: Path, name: str) -> None:
    """See that a folder of another program has its tensors as safetensors.

    Raises:
        AdapterFileError: it has them as a pickle, or not at all.
    """
    if (folder / name).exists():
        return
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES):
        raise AdapterFileError(f"Its tensors are a pickle ({pickles[0]}), {_NEVER}")
    raise AdapterFileError(f"{name} is missing. Get the adapter again.")


def inside(folder: Path, name: str) -> Path:
    """The path of a file in a folder. A link may only lead to the blobs beside it, as in the cache of a model hub.

    Raises:
        AdapterFileError: it leads elsewhere.
    """
    try:
        root, path = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise AdapterFileError(f"{name} in {folder} leads nowhere. Copy the file itself into the folder.") from error
    allowed = [root] + ([root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [])
    if not any(place in path.parents for place in allowed):
        raise AdapterFileError(f"{name} is a link that leads out of {folder}. Copy the file itself into the folder.")
    return path


def one_line(message: str) -> str:
    """A message that quotes a stranger's file: on one line, of characters that can be shown, and not too long to be read."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in message[: 2 * LONGEST])
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"
