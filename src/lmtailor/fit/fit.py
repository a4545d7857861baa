"""`fit`: from a base and a task to an adapter."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, TrainingError
from lmtailor.core.provenance import hardware, now, revision, versions
from lmtailor.core.settings import settings_hash, to_mapping
from lmtailor.fit.callbacks.callback import Callback
from lmtailor.fit.checkpoint import here
from lmtailor.fit.loop import Job, Loop
from lmtailor.fit.training import Training
from lmtailor.infer.evaluate import measure, predict_examples
from lmtailor.methods import method_name
from lmtailor.methods.method import Finishes, Method
from lmtailor.objectives.supervised import Supervised
from lmtailor.readouts.head import Head
from lmtailor.readouts.readout import Readout
from lmtailor.store.adapter import Adapter, new_adapter, on_device
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.tasks.task import Task


def fit(  # noqa: PLR0913 - the one door of fitting; every argument is one of its choices
    base: Base,
    task: Task,
    *,
    method: Method,
    readout: Readout | None = None,
    objective: Supervised | None = None,
    training: Training | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    overwrite: bool = False,
) -> Adapter:
    """Fit a base to a task.

    The best weights on dev are kept, if the task has a dev set. With `out` the fit can be interrupted at any moment: the same
    call goes on where the last checkpoint stands, and ends with the same bits. A finished fit of the same settings is returned
    as it is.

    Args:
        base: the model; its own weights never change.
        task: needs a train split.
        method: which parameters may change.
        readout: how the model answers; None is `Head()`.
        objective: the loss; None is `Supervised()`.
        training: how to train; what it leaves open comes from the method's recipe.
        seed: of start, order and dropout.
        out: folder for the adapter and, next to it, the checkpoint.
        callbacks: listeners.
        overwrite: replace what another fit left in `out`.

    Returns:
        The adapter, with its scores on dev.

    Raises:
        InputError: settings that do not fit the base or the data.
        TrainingError: the loss is not a number, or `out` holds a fit of other settings.
    """
    readout = Head() if readout is None else readout
    objective = Supervised() if objective is None else objective
    training = (Training() if training is None else training).resolved(method.recipe)
    if "train" not in task.splits:
        raise InputError(
            f"The task {task.name} has no train split, so nothing can be fitted. Use evaluate for zero-shot readouts."
        )
    settings = _settings(base, task, method, readout, objective, training, seed)
    folder = None if out is None else Path(out)
    if folder is not None and (done := _existing(folder, base, settings_hash(settings), overwrite=overwrite)) is not None:
        return done
    start = new_adapter(base, method=method, readout=readout, task=task, seed=seed)
    job = Job(base=base, task=task, start=start, objective=objective, training=training, seed=seed)
    return _run(job, settings, folder, tuple(callbacks))


def _run(job: Job, settings: dict[str, Any], folder: Path | None, callbacks: tuple[Callback, ...]) -> Adapter:
    begun, digest = now(), settings_hash(settings)
    state = None if folder is None else checkpoint_folder(folder) / "state.safetensors"
    loop = Loop(job, here(digest, versions()), state, callbacks)
    adapter = _finished(loop.run(), job.start.method)
    base, task = job.base, job.task
    scores = {"dev": measure(task, predict_examples(base, adapter, task.split("dev").examples))} if "dev" in task.splits else {}
    provenance = {
        "settings": settings,
        "settings_hash": digest,
        "data": task.digest,
        "begun": begun,
        **_provenance(base, task, loop),
    }
    adapter = replace(adapter, scores=scores, provenance=provenance)
    if folder is not None:
        save_adapter(adapter, folder)
        shutil.rmtree(checkpoint_folder(folder))
    return adapter


def checkpoint_folder(out: Path) -> Path:
    """Where an unfinished fit into `out` keeps its state: a hidden folder beside it."""
    return out.parent / f".{out.name}.checkpoint"


def _existing(folder: Path, base: Base, digest: str, *, overwrite: bool) -> Adapter | None:
    """What an earlier fit of the same settings left in the output folder."""
    if not (folder / "adapter.json").exists():
        return None
    done = load_adapter(folder, base, any_base=True)
    if done.provenance.get("settings_hash") == digest:
        return done
    if not overwrite:
        raise TrainingError(
            f"{folder} holds an adapter of another fit. Choose another folder, or pass overwrite=True (--overwrite)."
        )
    return None


def _provenance(base: Base, task: Task, loop: Loop) -> dict[str, Any]:
    return {
        "task": task.name,
        "seed": loop.seed,
        "ended": now(),
        "seconds": loop.progress.seconds,
        "steps": loop.progress.step,
        "outcome": loop.progress.ended,
        "best_step": loop.progress.best_step,
        "history": loop.progress.history,
        "notes": list(loop.notes),
        "versions": versions(),
        "revision": revision(),
        "hardware": hardware() | {"threads": torch.get_num_threads(), "device": str(base.device)},
    }


def _finished(adapter: Adapter, method: Method) -> Adapter:
    """Detached tensors, and the plain form of methods that train more than they keep."""
    adapter = on_device(
        adapter.with_state({name: tensor.detach().clone() for name, tensor in adapter.state.items()}), torch.device("cpu")
    )
    for tensor in adapter.state.values():
        tensor.requires_grad_(False)
    if isinstance(method, Finishes):
        plain, edits = method.finished(adapter.edits)
        adapter = replace(adapter, method=plain, edits=edits)
    return adapter


def _settings(
    base: Base, task: Task, method: Method, readout: Readout, objective: Supervised, training: Training, seed: int
) -> dict[str, Any]:
    return {
        "base": base.fingerprint,
        "dtype": str(base.dtype),
        "data": task.digest,
        "metrics": list(task.metrics),
        "method": {"name": method_name(method), **to_mapping(method)},
        "readout": {"name": type(readout).__name__, **to_mapping(readout)},
        "objective": to_mapping(objective),
        "training": to_mapping(training),
        "seed": seed,
    }
