"""`lmtailor fit`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Group, Parameter

from lmtailor.cli import say
from lmtailor.cli.options import MachineOptions, ReadoutOptions, Settings, TaskOptions, TrainingOptions
from lmtailor.core.errors import InputError

if TYPE_CHECKING:
    from lmtailor.base.base import Base
    from lmtailor.fit.callbacks.callback import Callback
    from lmtailor.store.adapter import Adapter
    from lmtailor.tasks.task import Task

OUTPUT = Group("Output", sort_key=4)


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is written, and where."""

    out: Path | None = None
    """Folder for the adapter. "adapters/TASK-METHOD" if none is given."""
    overwrite: bool = False
    """Replace the adapter of another fit."""
    log: Path | None = None
    """File for a log of the fit, as JSON Lines."""
    tensorboard: Path | None = None
    """Folder for curves in TensorBoard."""


_TASK, _ANSWER, _TRAINING = TaskOptions(), ReadoutOptions(), TrainingOptions()
_OUTPUT, _MACHINE = OutputOptions(), MachineOptions()


def run(
    base: str,
    /,
    *,
    method: str,
    settings: Settings = (),
    data: TaskOptions = _TASK,
    answer: ReadoutOptions = _ANSWER,
    training: TrainingOptions = _TRAINING,
    output: OutputOptions = _OUTPUT,
    machine: MachineOptions = _MACHINE,
) -> None:
    """Fit a base to a task, and save what was trained as an adapter.

    The best weights on dev are kept. A fit that was interrupted goes on where it was, to the same bits, when the same
    command is given again.

    ```
    lmtailor fit MODEL --task card.toml --method lora --set rank=16 --out adapters/mine
    lmtailor fit MODEL --train a.csv --dev b.csv --text sentence --label label --method bitfit
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        method: Which parameters may change; `lmtailor methods` lists them. `lora+bitfit` is both at once.
        settings: KEY=VALUE: a setting of the method, the readout, the training, the objective or the card, such as
            method.rank=16 (in a union lora.rank=16), readout.pooling=mean, training.patience=3 or task.limits.train=500. A bare
            name works where it is unique.
        data: What the task is.
        answer: How the base answers.
        training: How to train.
        output: What is written.
        machine: How the base is loaded.
    """
    from lmtailor.cli import choices
    from lmtailor.fit.fit import fit

    choices.method_classes(method)  # a wrong name is told before the data is read
    task = choices.the_task(data, settings)
    chosen = choices.the_choices(task, method, answer, training, settings)
    out = _place(output, task, method)
    before = _age(out)
    loaded = choices.the_base(base, machine)
    adapter = fit(
        loaded,
        task,
        method=chosen.method,
        readout=chosen.readout,
        objective=chosen.objective,
        training=chosen.training,
        seed=training.seed,
        out=out,
        callbacks=_callbacks(output),
        overwrite=output.overwrite,
    )
    if before is not None and before == _age(out):
        say.plain(f"{out} holds this fit already; nothing was trained.")
    _show_scores(loaded, task, adapter)
    _show_adapter(adapter, out, choices.predict_command(base, out, task, machine))


def _show_scores(base: "Base", task: "Task", adapter: "Adapter") -> None:
    """Scores on dev as the fit measured them, and on all test sets."""
    from lmtailor.cli import results

    scores = dict(adapter.scores)
    for name in (name for name in ("test", *task.ood) if name in task.splits):
        scores[name] = results.score_split(base, task, adapter, name)
    results.show_scores(scores)


def _show_adapter(adapter: "Adapter", out: Path, command: str) -> None:
    """The folder, how much is in it, and what to type next."""
    size = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    say.fields({"adapter": f"{out} ({adapter.num_parameters:,} trained numbers, {size / 1e6:.2f} MB)"})
    say.result(f"\nTo use it:\n\n    {command}")


def _place(output: OutputOptions, task: "Task", method: str) -> Path:
    """Where the adapter goes.

    Raises:
        InputError: something else is there.
    """
    out = Path("adapters") / f"{task.name}-{method}" if output.out is None else output.out.expanduser()
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file. Name a folder for the adapter with --out.")
    return out


def _age(out: Path) -> int | None:
    """When the adapter there was written (ns), if there is one."""
    manifest = out / "adapter.json"
    return manifest.stat().st_mtime_ns if manifest.exists() else None


def _callbacks(output: OutputOptions) -> "list[Callback]":
    from lmtailor.fit.callbacks.console import ConsoleCallback
    from lmtailor.fit.callbacks.jsonl import JsonlCallback

    callbacks: list[Callback] = [ConsoleCallback()]
    if output.log is not None:
        callbacks.append(JsonlCallback(output.log))
    if output.tensorboard is not None:
        try:
            from lmtailor.fit.callbacks.tensorboard import TensorBoardCallback
        except ImportError:
            raise InputError("--tensorboard needs a package that is not here: pip install 'lmtailor[tensorboard]'.") from None
        callbacks.append(TensorBoardCallback(output.tensorboard))
    return callbacks
