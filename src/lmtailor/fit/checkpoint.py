"""Checkpoints: one safetensors file with everything a fit needs to go on, bit for bit.

The file holds trained tensors (`now.`), the best ones so far (`best.`), the optimizer's (`optimizer.`), and a JSON text with the
counters in its metadata. One file is one rename, so tensors and counters cannot disagree.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmtailor.core.errors import TrainingError
from lmtailor.core.files import atomic_path

VERSION = 1
_NOW, _BEST, _OPTIMIZER = "now.", "best.", "optimizer."


@dataclass
class Progress:
    """How far a fit is."""

    step: int = 0
    """Optimizer steps done."""
    best_score: float | None = None
    best_step: int = 0
    waited: int = 0
    """Evaluations since the best one."""
    seconds: float = 0.0
    """Spent in all sessions."""
    loss_sum: float = 0.0
    """Since the evaluation before."""
    loss_count: int = 0
    ended: str = ""
    """Why it is over; "" while it is not."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry an evaluation: step, epoch, loss, scores, seconds."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What must be the same for a fit to go on to the same bits."""

    settings: str
    """Hash of everything that was asked for: base, data, method, readout, training, seed."""
    threads: int
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A fit in the middle."""

    now: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    optimizer_numbers: Mapping[str, Any]
    progress: Progress
    identity: Identity


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    groups = {_NOW: checkpoint.now, _BEST: checkpoint.best, _OPTIMIZER: checkpoint.optimizer}
    tensors = {f"{start}{name}": t.detach().cpu().contiguous() for start, group in groups.items() for name, t in group.items()}
    text = {
        "version": VERSION,
        "progress": vars(checkpoint.progress),
        "settings": checkpoint.identity.settings,
        "threads": checkpoint.identity.threads,
        "versions": dict(checkpoint.identity.versions),
        "optimizer": dict(checkpoint.optimizer_numbers),
    }
    with atomic_path(path) as part:
        save_file(tensors, str(part), metadata={"checkpoint": json.dumps(text)})


def load_checkpoint(path: Path, identity: Identity) -> Checkpoint:
    """Read a checkpoint of the same fit.

    Raises:
        TrainingError: it is of other settings, another number of threads or other versions, or cannot be read.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            text = json.loads((file.metadata() or {})["checkpoint"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"The checkpoint {path} cannot be read ({error}). Delete its folder to start again.") from error
    _check(path, text, identity)

    def group(start: str) -> dict[str, Tensor]:
        return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}

    return Checkpoint(
        now=group(_NOW),
        best=group(_BEST),
        optimizer=group(_OPTIMIZER),
        optimizer_numbers=text["optimizer"],
        progress=Progress(**text["progress"]),
        identity=identity,
    )


def _check(path: Path, text: Mapping[str, Any], identity: Identity) -> None:
    advice = f"Use another output folder, or delete {path.parent} to start again."
    if text["version"] != VERSION:
        raise TrainingError(f"{path} has version {text['version']}; this program writes {VERSION}. {advice}")
    if text["settings"] != identity.settings:
        raise TrainingError(f"{path} belongs to a fit with other settings, base or data. {advice}")
    if text["threads"] != identity.threads:
        raise TrainingError(
            f"{path} was made with {text['threads']} threads; now there are {identity.threads}, which changes the last bits. "
            f"Set OMP_NUM_THREADS={text['threads']} to go on. {advice}"
        )
    changed = [
        f"{name} {old} → {identity.versions.get(name)}"
        for name, old in text["versions"].items()
        if identity.versions.get(name) != old
    ]
    if changed:
        raise TrainingError(f"{path} was made with other versions ({', '.join(changed)}). Install those to go on. {advice}")


def here(settings: str, versions: Mapping[str, str]) -> Identity:
    """The identity of a fit in this process."""
    return Identity(settings=settings, threads=torch.get_num_threads(), versions=versions)
