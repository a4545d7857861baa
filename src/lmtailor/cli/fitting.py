"""What the verbs that make an adapter share: where it goes, who listens, and what is said of it."""

from pathlib import Path

from lmtailor.base.base import Base
from lmtailor.cli import results, say
from lmtailor.cli.options import OutputOptions
from lmtailor.core.errors import InputError
from lmtailor.fit.callbacks.callback import Callback
from lmtailor.fit.callbacks.jsonl import JsonlCallback
from lmtailor.store.adapter import Adapter
from lmtailor.tasks.task import Task


def show_scores(base: Base, task: Task, adapter: Adapter) -> None:
    """Scores on dev as the fit measured them, and on all test sets."""
    scores = dict(adapter.scores)
    for name in (name for name in ("test", *task.ood) if name in task.splits):
        scores[name] = results.score_split(base, task, adapter, name)
    results.show_scores(scores)


def show_adapter(adapter: Adapter, out: Path, command: str) -> None:
    """The folder, how much is in it, and what to type next."""
    size = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    say.fields({"adapter": f"{out} ({adapter.num_parameters:,} trained numbers, {size / 1e6:.2f} MB)"})
    say.result(f"\nTo use it:\n\n    {command}")


def place(output: OutputOptions, task: Task, method: str) -> Path:
    """Where the adapter goes.

    Raises:
        InputError: something else is there.
    """
    out = Path("adapters") / f"{task.name}-{method}" if output.out is None else output.out.expanduser()
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file. Name a folder for the adapter with --out.")
    return out


def age(out: Path) -> int | None:
    """When the adapter there was written (ns), if there is one."""
    manifest = out / "adapter.json"
    return manifest.stat().st_mtime_ns if manifest.exists() else None


def tell_kept(out: Path, before: int | None, what: str, done: str) -> None:
    """Say that nothing was done, if the adapter is still that of `before`."""
    if before is not None and before == age(out):
        say.plain(f"{out} holds this {what} already; nothing was {done}.")


def loggers(output: OutputOptions) -> list[Callback]:
    """Who writes a fit down.

    Raises:
        InputError: TensorBoard is asked for and not installed.
    """
    listeners: list[Callback] = []
    if output.log is not None:
        listeners.append(JsonlCallback(output.log))
    if output.tensorboard is not None:
        try:
            from lmtailor.fit.callbacks.tensorboard import TensorBoardCallback
        except ImportError:
            raise InputError("--tensorboard needs a package that is not here: pip install 'lmtailor[tensorboard]'.") from None
        listeners.append(TensorBoardCallback(output.tensorboard))
    return listeners
