"""What is in an adapter's folder, told without its base."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmtailor.cli import results, say
from lmtailor.core.errors import AdapterFileError, InputError
from lmtailor.core.files import sha256
from lmtailor.store.manifest import Manifest, Named
from lmtailor.store.peft.config import CONFIG, TENSORS
from lmtailor.store.place import MANIFEST, check_peft, inside
from lmtailor.store.strict_json import read_json
from lmtailor.store.tensors import TensorInfo, read_header


def show(folder: Path) -> None:
    """Print the manifest, the scores and the tensors of an adapter.

    Raises:
        AdapterFileError: the folder is damaged.
    """
    if (folder / MANIFEST).is_file():
        _show_own(folder)
    else:
        _show_peft(folder)


def _show_own(folder: Path) -> None:
    try:
        manifest = Manifest.from_json(read_json(inside(folder, MANIFEST)))
    except InputError as error:
        text = str(error)
        raise AdapterFileError(text if str(folder) in text else f"{folder}: {MANIFEST}: {text}") from error
    files = {name: _header(folder, name) for name in manifest.tensors.sha256}
    for name, digest in manifest.tensors.sha256.items():
        if sha256(folder / name) != digest:
            raise AdapterFileError(
                f"{folder / name} is not the file that was saved with this adapter: its SHA-256 is another. Get it again."
            )
    labels = manifest.labels
    task = "" if labels is None else f"{labels.kind} of {' and '.join(labels.texts)}"
    say.fields(
        {
            "adapter": str(folder),
            "made with": manifest.made_with,
            "base": f"{manifest.base.source or 'unnamed'} ({manifest.base.family})",
            "fingerprint": manifest.base.fingerprint,
            "method": _named(manifest.method),
            "readout": "none" if manifest.readout is None else _named(manifest.readout),
            "task": task or "none",
            "labels": "none" if labels is None or not labels.labels else ", ".join(labels.labels),
            "trained": f"{manifest.parameters:,} numbers",
            "sites": f"{len(manifest.sites)}",
            **_made(manifest.provenance),
        }
    )
    if manifest.scores:
        say.result()
        results.show_scores(manifest.scores)
    _show_tensors(folder, files)


def _show_peft(folder: Path) -> None:
    config = read_json(inside(folder, CONFIG))
    check_peft(folder, config)
    files = {TENSORS: _header(folder, TENSORS)}
    told = {key: str(value) for key, value in config.items() if value not in (None, [], {}, "")}
    say.fields({"adapter": f"{folder} (PEFT)", **told})
    _show_tensors(folder, files)


def _show_tensors(folder: Path, files: Mapping[str, Mapping[str, TensorInfo]]) -> None:
    for name, tensors in files.items():
        size = (folder / name).stat().st_size
        say.result(f"\n{name}: {len(tensors)} tensors, {size / 1e6:.2f} MB")
        rows = [(key, " × ".join(map(str, info.shape)), str(info.dtype).removeprefix("torch.")) for key, info in tensors.items()]
        say.table(("tensor", "shape", "type"), rows, right=("shape",))


def _header(folder: Path, name: str) -> Mapping[str, TensorInfo]:
    path = inside(folder, name)
    return read_header(path, limit=path.stat().st_size if path.is_file() else 0)


def _named(part: Named) -> str:
    """A method or readout with its settings."""
    settings = " ".join(f"{key}={value}" for key, value in part.settings.items())
    return f"{part.name} {settings}".strip()


def _made(provenance: Mapping[str, Any]) -> dict[str, str]:
    """When and how long it was fitted, where that is known."""
    told = {key: str(provenance[key]) for key in ("seed", "ended", "steps", "outcome") if key in provenance}
    return {"fitted": ", ".join(f"{key} {value}" for key, value in told.items())} if told else {}
