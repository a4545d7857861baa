"""Checkpoints: one safetensors file with everything a fit needs to go on, bit for bit.

For each adapter the file holds trained tensors (`now`), the best ones so far (`best`), what is stored but not trained
(`fixed`), what the method keeps between steps (`memory`), the optimizer's (`optimizer`), and a JSON text with the counters in its
metadata. One file is one rename, so tensors and counters cannot disagree, nor can the adapters of one fit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmtailor.core.errors import TrainingError
from lmtailor.core.files import atomic_path

VERSION = 2


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
    watched: list[dict[str, Any]] = field(default_factory=list)
    """One entry each time held-out tasks were asked: step, epoch, and their scores by task."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What must be the same for a fit to go on to the same bits."""

    settings: str
    """Hash of everything that was asked for: base, data, method, readout, training, seed."""
    threads: int
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class MemberState:
    """One adapter in the middle of its fit."""

    now: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    fixed: Mapping[str, Tensor]
    memory: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    optimizer_numbers: Mapping[str, Any]
    progress: Progress


_GROUPS = ("now", "best", "fixed", "memory", "optimizer")


def save_checkpoint(path: Path, members: Sequence[MemberState], identity: Identity) -> None:
    """Write the states of all adapters of a fit, whole or not at all."""
    tensors = {
        f"{number}.{group}.{name}": tensor.detach().cpu().contiguous()
        for number, member in enumerate(members)
        for group in _GROUPS
        for name, tensor in getattr(member, group).items()
    }
    text = {
        "version": VERSION,
        "settings": identity.settings,
        "threads": identity.threads,
        "versions": dict(identity.versions),
        "members": [{"progress": vars(member.progress), "optimizer": dict(member.optimizer_numbers)} for member in members],
    }
    with atomic_path(path) as part:
        save_file(tensors, str(part), metadata={"checkpoint": json.dumps(text)})


def load_checkpoint(path: Path, identity: Identity) -> tuple[MemberState, ...]:
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

    return tuple(
        MemberState(
            **{name: group(f"{number}.{name}.") for name in _GROUPS},
            optimizer_numbers=member["optimizer"],
            progress=Progress(**member["progress"]),
        )
        for number, member in enumerate(text["members"])
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
