"""`fit`: from a base and a task to an adapter, or from several tasks to several adapters."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError, TrainingError
from lmtailor.core.provenance import hardware, now, revision, versions
from lmtailor.core.settings import settings_hash, to_mapping
from lmtailor.edits.edits import Edits
from lmtailor.fit.callbacks.callback import Callback
from lmtailor.fit.checkpoint import here
from lmtailor.fit.job import Job
from lmtailor.fit.loop import Loop
from lmtailor.fit.member import Member
from lmtailor.fit.soft_labels import SoftLabels, soft_digest, soft_targets
from lmtailor.fit.start import start_digest, started_at
from lmtailor.fit.training import Training
from lmtailor.fit.unlabelled import Unlabelled
from lmtailor.infer.evaluate import measure, predict_split, reference_perplexity
from lmtailor.methods import method_name
from lmtailor.methods.method import Finishes, Method
from lmtailor.objectives.objective import Objective
from lmtailor.objectives.supervised import Supervised
from lmtailor.readouts.head import Head
from lmtailor.readouts.readout import Readout
from lmtailor.store.adapter import Adapter, new_adapter, on_device
from lmtailor.store.folder import load_adapter, save_adapter
from lmtailor.tasks.metrics import Scores
from lmtailor.tasks.task import Task
from lmtailor.tasks.watched import Watched


@overload
def fit(  # type: ignore[overload-overlap]  # a list anywhere makes it the second
    base: Base,
    task: Task,
    *,
    method: Method,
    readout: Readout | None = None,
    start: Edits | None = None,
    objective: Objective | None = None,
    soft_labels: SoftLabels | None = None,
    unlabelled: Unlabelled | None = None,
    training: Training | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    watched: Sequence[Watched] = (),
    overwrite: bool = False,
) -> Adapter: ...


@overload
def fit(
    base: Base,
    task: Task | Sequence[Task],
    *,
    method: Method | Sequence[Method],
    readout: Readout | Sequence[Readout | None] | None = None,
    start: Edits | Sequence[Edits | None] | None = None,
    objective: Objective | None = None,
    soft_labels: SoftLabels | Sequence[SoftLabels | None] | None = None,
    unlabelled: Unlabelled | Sequence[Unlabelled | None] | None = None,
    training: Training | Sequence[Training | None] | None = None,
    seed: int | Sequence[int] = 0,
    out: Sequence[str | Path] | None = None,
    callbacks: Sequence[Callback] = (),
    watched: Sequence[Watched] = (),
    overwrite: bool = False,
) -> list[Adapter]: ...


def fit(  # noqa: PLR0913 - the one door of fitting; every argument is one of its choices
    base: Base,
    task: Task | Sequence[Task],
    *,
    method: Method | Sequence[Method],
    readout: Readout | Sequence[Readout | None] | None = None,
    start: Edits | Sequence[Edits | None] | None = None,
    objective: Objective | None = None,
    soft_labels: SoftLabels | Sequence[SoftLabels | None] | None = None,
    unlabelled: Unlabelled | Sequence[Unlabelled | None] | None = None,
    training: Training | Sequence[Training | None] | None = None,
    seed: int | Sequence[int] = 0,
    out: str | Path | Sequence[str | Path] | None = None,
    callbacks: Sequence[Callback] = (),
    watched: Sequence[Watched] = (),
    overwrite: bool = False,
) -> Adapter | list[Adapter]:
    """Fit a base to a task; or to several tasks, or by several methods, at once.

    The best weights on dev are kept, if the task has a dev set. With `out` the fit can be interrupted at any moment: the same
    call goes on where the last checkpoint stands, and ends with the same bits. A finished fit of the same settings is returned
    as it is.

    Where anything but the base and the objective is a list, one adapter is fitted for each place, all in shared batches: the
    base runs once a step for all of them, and each has an optimizer, a schedule and an end of its own. What is no list holds
    for all. Each adapter is what it would be alone, to rounding (and other draws of dropout).

    Args:
        base: the model; its own weights never change.
        task: needs a train split.
        method: which parameters may change.
        readout: how the model answers; None is `Head()`.
        start: edits of the method with the values to start from, such as another adapter's; None is the method's own start.
        objective: the loss; None is `Supervised()`.
        soft_labels: for objectives that learn from them: name of each training example → probability of each label.
        unlabelled: model language on the unlabelled split besides; None does not.
        training: how to train; what it leaves open comes from the method's recipe.
        seed: of start, order and dropout.
        out: folder for the adapter and, next to it, the checkpoint; with lists a folder for each adapter.
        callbacks: listeners.
        watched: held-out tasks that are asked before the first step and whenever dev is scored, such as a mixture's. Nothing is
            learned from them and nothing chosen by them; their scores are in the adapter's provenance under "watched".
        overwrite: replace what another fit left in `out`.

    Returns:
        The adapter, with its scores on dev; a list of them where anything was a list.

    Raises:
        InputError: settings that do not fit the base or the data, or lists of different lengths.
        TrainingError: the loss is not a number, or `out` holds a fit of other settings.
    """
    chosen = {"task": task, "method": method, "readout": readout, "training": training, "seed": seed, "out": out}
    each, several = _each({**chosen, "start": start, "soft_labels": soft_labels, "unlabelled": unlabelled})
    objective = Supervised() if objective is None else objective
    done = _fit([_plan(base, objective, watched=tuple(watched), **own) for own in each], tuple(callbacks), overwrite=overwrite)
    return done if several else done[0]


def _each(chosen: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """The choices of each adapter, and whether any was a list."""
    lists = {name: list(value) for name, value in chosen.items() if isinstance(value, list | tuple)}
    counts = {name: len(value) for name, value in lists.items()}
    count = next(iter(counts.values()), 1)
    if len(set(counts.values())) > 1 or not count:
        raise InputError(f"Lists of one fit must have one length, above 0; found {counts}.")
    if lists and chosen["out"] is not None and "out" not in lists:
        raise InputError(f"{count} adapters need {count} folders: give `out` as a list.")
    return [{**chosen, **{name: own[i] for name, own in lists.items()}} for i in range(count)], bool(lists)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """One adapter that is to be."""

    base: Base
    task: Task
    method: Method
    readout: Readout
    start: Edits | None
    objective: Objective
    soft_BC: Tensor | None
    unlabelled: Unlabelled | None
    training: Training
    seed: int
    out: Path | None
    watched: tuple[Watched, ...]

    def settings(self) -> dict[str, Any]:
        """All that its weights and its scores depend on."""
        return {
            "base": self.base.fingerprint,
            "dtype": str(self.base.dtype),
            "data": self.task.digest,
            "metrics": list(self.task.metrics),
            "method": {"name": method_name(self.method), **to_mapping(self.method)},
            "readout": {"name": type(self.readout).__name__, **to_mapping(self.readout)},
            "start": start_digest(self.start),
            "objective": {"name": self.objective.variant_name(), **to_mapping(self.objective)},
            "soft_labels": soft_digest(self.soft_BC),
            "unlabelled": None if self.unlabelled is None else to_mapping(self.unlabelled),
            "training": to_mapping(self.training),
            "seed": self.seed,
            **({"watched": {one.name: one.digest for one in self.watched}} if self.watched else {}),
        }

    def job(self, number: int | None) -> Job:
        """The adapter at its start, and how to train it. `number` is its place among several."""
        own = new_adapter(self.base, method=self.method, readout=self.readout, task=self.task, seed=self.seed)
        return Job(
            base=self.base,
            task=self.task,
            start=started_at(own, self.start),
            objective=self.objective,
            soft_BC=self.soft_BC,
            unlabelled=self.unlabelled,
            watched=self.watched,
            training=self.training,
            seed=self.seed,
            name="" if number is None else f"{number}: {self.task.name}, {method_name(self.method)}",
        )


def _plan(  # noqa: PLR0913 - what `fit` is given
    base: Base,
    objective: Objective,
    *,
    task: Task,
    method: Method,
    readout: Readout | None,
    start: Edits | None,
    soft_labels: SoftLabels | None,
    unlabelled: Unlabelled | None,
    training: Training | None,
    seed: int,
    out: str | Path | None,
    watched: tuple[Watched, ...],
) -> _Plan:
    if "train" not in task.splits:
        raise InputError(
            f"The task {task.name} has no train split, so nothing can be fitted. Use evaluate for zero-shot readouts."
        )
    task.try_metrics()
    return _Plan(
        base=base,
        task=task,
        method=method,
        readout=Head() if readout is None else readout,
        start=start,
        objective=objective,
        soft_BC=soft_targets(task, objective, soft_labels),
        unlabelled=unlabelled,
        training=(Training() if training is None else training).resolved(method.recipe),
        seed=seed,
        out=None if out is None else Path(out),
        watched=watched,
    )


def _fit(plans: Sequence[_Plan], callbacks: tuple[Callback, ...], *, overwrite: bool) -> list[Adapter]:
    begun, settings = now(), [plan.settings() for plan in plans]
    digest = settings_hash(settings[0] if len(plans) == 1 else {"together": settings})
    found = [None if plan.out is None else existing(plan.out, plan.base, digest, overwrite=overwrite) for plan in plans]
    done = [adapter for adapter in found if adapter is not None]
    if len(done) == len(plans):
        return done
    first = plans[0].out
    state = None if first is None else checkpoint_folder(first) / "state.safetensors"
    jobs = [plan.job(number if len(plans) > 1 else None) for number, plan in enumerate(plans)]
    loop = Loop(jobs, here(digest, versions()), state, callbacks)
    out = []
    for plan, own, fitted, member in zip(plans, settings, loop.run(), loop.members, strict=True):
        adapter, task = _finished(fitted), plan.task
        scores = {"dev": _dev(plan.base, task, adapter)} if "dev" in task.splits else {}
        provenance = {"settings": own, "settings_hash": digest, "data": task.digest, "begun": begun, **_provenance(member)}
        out.append(replace(adapter, scores=scores, provenance=provenance))
        if plan.out is not None:
            save_adapter(out[-1], plan.out)
    if state is not None:
        shutil.rmtree(state.parent)
    return out


def _dev(base: Base, task: Task, adapter: Adapter) -> Scores:
    """The adapter's scores on dev; of texts that are written, the perplexity of the references, as while it was fitted."""
    if task.kind == "generation":
        return reference_perplexity(base, adapter, task.split("dev").examples)
    return measure(task, predict_split(base, task, adapter, split="dev"))


def checkpoint_folder(out: Path) -> Path:
    """Where an unfinished fit into `out` keeps its state: a hidden folder beside it."""
    return out.parent / f".{out.name}.checkpoint"


def existing(folder: Path, base: Base, digest: str, *, overwrite: bool) -> Adapter | None:
    """What an earlier fit of the same settings left in the output folder.

    Args:
        folder: where the adapter is to be.
        base: what it is for.
        digest: hash of the settings.
        overwrite: take no notice of an adapter of other settings.

    Raises:
        TrainingError: there is one of other settings.
    """
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


def _provenance(member: Member) -> dict[str, Any]:
    progress = member.progress
    return {
        "task": member.task.name,
        "seed": member.job.seed,
        "ended": now(),
        "seconds": progress.seconds,
        "steps": progress.step,
        "outcome": progress.ended,
        "best_step": progress.best_step,
        "history": progress.history,
        **({"watched": progress.watched} if progress.watched else {}),
        "notes": list(member.notes),
        "versions": versions(),
        "revision": revision(),
        "hardware": hardware() | {"threads": torch.get_num_threads(), "device": str(member.base.device)},
    }


def _finished(adapter: Adapter) -> Adapter:
    """Detached tensors, and the plain form of methods that train more than they keep."""
    adapter = on_device(
        adapter.with_state({name: tensor.detach().clone() for name, tensor in adapter.state.items()}), torch.device("cpu")
    )
    for tensor in adapter.state.values():
        tensor.requires_grad_(False)
    if isinstance(adapter.method, Finishes):
        plain, edits = adapter.method.finished(adapter.edits)
        adapter = replace(adapter, method=plain, edits=edits)
    return adapter
