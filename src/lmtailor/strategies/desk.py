"""Where a work of several parts keeps what is done, so that it goes on after a crash where it stood."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from lmtailor.core.errors import InputError, TrainingError
from lmtailor.core.files import atomic_path, inside, write_text

_SETTINGS = "settings.json"


class Desk:
    """Finished parts of one work by name: results as JSON, tensors as safetensors, and folders for fits.

    Without a folder nothing is kept. A part must follow from the settings alone, or from parts before it.
    """

    def __init__(self, folder: Path | None, digest: str = "", *, overwrite: bool = False) -> None:
        """Open a desk.

        Args:
            folder: where the parts are; None keeps none.
            digest: hash of all settings that the parts depend on.
            overwrite: clear a desk of other settings. One without parts is cleared in any case.

        Raises:
            TrainingError: the folder holds parts of other settings.
        """
        self.root = folder
        if folder is None:
            return
        settings = folder / _SETTINGS
        if settings.exists() and _object(settings).get("settings_hash") != digest:
            if not overwrite and not self._empty:
                raise TrainingError(
                    f"{folder} holds an unfinished work of other settings. Give the settings that it was begun with to go on, "
                    "choose another folder, or pass overwrite=True (--overwrite)."
                )
            shutil.rmtree(folder)
        if not settings.exists():
            write_text(settings, json.dumps({"settings_hash": digest}))

    def part(self, name: str) -> "Desk":
        """A desk within this one."""
        inner = Desk(None)
        inner.root = self.path(name)
        return inner

    def path(self, name: str) -> Path | None:
        """A place for a part that keeps itself, such as `fit(…, out=…)`; None if nothing is kept."""
        return None if self.root is None else inside(self.root, name)

    def result(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """A part as JSON: read if it is done, else made and kept. What comes back has gone through JSON either way."""
        path = self.path(f"{name}.json")
        if path is not None and path.exists():
            return _object(path)
        text = json.dumps(make(), ensure_ascii=False, allow_nan=False)
        if path is not None:
            write_text(path, text)
        value: dict[str, Any] = json.loads(text)
        return value

    def latest(self, name: str) -> dict[str, Any] | None:
        """What was last put down by `put`."""
        path = self.path(f"{name}.json")
        return _object(path) if path is not None and path.exists() else None

    def put(self, name: str, value: Mapping[str, Any]) -> None:
        """Put down how far a part is, over what was there."""
        path = self.path(f"{name}.json")
        if path is not None:
            write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False))

    def tensors(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """A part as tensors: read if it is done, else made and kept."""
        path = self.path(f"{name}.safetensors")
        if path is not None and path.exists():
            return load_file(path)
        value = {key: tensor.detach().cpu().contiguous() for key, tensor in make().items()}
        if path is not None:
            with atomic_path(path) as part:
                save_file(value, part)
        return value

    @property
    def _empty(self) -> bool:
        """Whether no part of it was kept."""
        return self.root is None or all(path.name == _SETTINGS for path in self.root.iterdir())

    def leave(self) -> None:
        """The work stops before its end: remove the desk if there is nothing on it."""
        if self.root is not None and self.root.exists() and self._empty:
            shutil.rmtree(self.root)

    def clear(self) -> None:
        """Remove all of it: the work is done."""
        if self.root is not None and self.root.exists():
            shutil.rmtree(self.root)


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as a part of an unfinished work: {error}. Remove its folder to begin anew."
        ) from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is no part of an unfinished work. Remove its folder to begin anew.")
    return value
