"""`adapt`: from a base and a task to an adapter by a strategy."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmtailor.base.base import Base
from lmtailor.core.provenance import now, versions
from lmtailor.core.settings import settings_hash, to_mapping
from lmtailor.fit.callbacks.callback import Callback
from lmtailor.fit.fit import existing
from lmtailor.fit.training import Training
from lmtailor.methods import method_name
from lmtailor.methods.method import Method
from lmtailor.readouts.readout import Readout
from lmtailor.readouts.registry import readout_name
from lmtailor.store.adapter import Adapter
from lmtailor.store.folder import save_adapter
from lmtailor.strategies.desk import Desk
from lmtailor.strategies.strategy import Strategy, Tell, Work
from lmtailor.tasks.task import Task


def adapt(  # noqa: PLR0913 - the one door of strategies; every argument is one of its choices
    base: Base,
    task: Task,
    *,
    strategy: Strategy,
    method: Method | None = None,
    readout: Readout | None = None,
    training: Training | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    tell: Tell | None = None,
    overwrite: bool = False,
) -> Adapter:
    """Adapt a base to a task by a strategy that takes more than one fit.

    With `out` the work can be interrupted at any moment: the same call goes on with the part that was not done, and ends with
    the same bits. A finished work of the same settings is returned as it is.

    Args:
        base: the model; its own weights never change.
        task: what the strategy asks for: labelled examples, and for some an "unlabelled" split.
        strategy: such as `lmtailor.strategies.PET()`.
        method: which parameters may change in what is fitted; None: the strategy's own choice.
        readout: how the adapter is to answer; None: the strategy's own choice.
        training: how to train; what it leaves open is the strategy's own choice, then the method's recipe.
        seed: of all that is drawn.
        out: folder for the adapter; unfinished parts are in a hidden folder beside it.
        callbacks: listeners to each fit.
        tell: called with what goes on, how much of it is done, and of how much.
        overwrite: replace what other settings left in `out`.

    Raises:
        InputError: settings that do not fit the base or the data.
        UnsupportedError: the strategy has no meaning on this base, or with the method or the readout.
        TrainingError: `out` holds something of other settings.
    """
    place = None if out is None else Path(out)
    work = Work(
        base=base,
        task=task,
        method=method,
        readout=readout,
        training=training,
        seed=seed,
        callbacks=tuple(callbacks),
        tell=_silent if tell is None else tell,
    )
    settings, begun, clock = _settings(strategy, work), now(), time.monotonic()
    digest = settings_hash(settings)
    if place is not None and (done := existing(place, base, digest, overwrite=overwrite)) is not None:
        return done
    desk = Desk(None if place is None else work_folder(place), digest, overwrite=overwrite)
    adapter = _run(strategy, replace(work, desk=desk))
    own = {"settings": settings, "settings_hash": digest, "begun": begun, "ended": now(), "seconds": time.monotonic() - clock}
    adapter = replace(adapter, provenance={**adapter.provenance, **_known(work), **own})
    if place is not None:
        save_adapter(adapter, place)
    desk.clear()
    return adapter


def _run(strategy: Strategy, work: Work) -> Adapter:
    """Carry the work out; if it fails before any part of it is done, nothing is left behind."""
    try:
        return strategy.run(work)
    except BaseException:
        work.desk.leave()
        raise


def _known(work: Work) -> dict[str, Any]:
    return {"task": work.task.name, "data": work.task.digest, "seed": work.seed, "versions": versions()}


def _settings(strategy: Strategy, work: Work) -> dict[str, Any]:
    """All that the adapter depends on."""
    base, task, method, readout, training = work.base, work.task, work.method, work.readout, work.training
    return {
        "base": base.fingerprint,
        "dtype": str(base.dtype),
        "data": task.digest,
        "metrics": list(task.metrics),
        "patterns": list(task.patterns),
        "words": {label: list(words) for label, words in task.verbalizer.items()},
        "strategy": strategy.settings(),
        "method": None if method is None else {"name": method_name(method), **to_mapping(method)},
        "readout": None if readout is None else {"name": readout_name(readout), **to_mapping(readout)},
        "training": None if training is None else to_mapping(training),
        "seed": work.seed,
    }


def work_folder(out: Path) -> Path:
    """Where an unfinished work into `out` keeps its parts: a hidden folder beside it."""
    return out.parent / f".{out.name}.work"


def _silent(what: str, done: int, total: int) -> None:
    """Nobody listens."""
