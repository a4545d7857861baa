"""What the verbs that make an adapter share: where it goes, who listens, and what is said of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmtailor.base.base import Base
from lmtailor.cli import results, say
from lmtailor.cli.options import OutputOptions
from lmtailor.core.errors import InputError
from lmtailor.fit.callbacks.callback import Callback
from lmtailor.fit.callbacks.console import ConsoleCallback
from lmtailor.fit.callbacks.jsonl import JsonlCallback
from lmtailor.infer.decoding import Decoding
from lmtailor.store.adapter import Adapter
from lmtailor.tasks.task import Task


def show(
    base: Base, task: Task, adapter: Adapter, out: Path, *, before: int | None, decoding: Decoding | None, command: str
) -> None:
    """What came out: whether it was there already, scores, what a strategy found, the folder, and what to type next.

    Args:
        base: on which test sets are answered.
        task: its data.
        adapter: what was trained.
        out: its folder.
        before: the age of what was there before the work began.
        decoding: how text is written; None: as is done unasked.
        command: what to type next.
    """
    if before is not None and before == age(out):
        say.plain(f"{out} holds this adapter already; nothing was trained.")
    _show_scores(base, task, adapter, decoding)
    _show_search(adapter)
    size = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    say.fields({"adapter": f"{out} ({adapter.num_parameters:,} trained numbers, {size / 1e6:.2f} MB)"})
    say.result(f"\nTo use it:\n\n    {command}")


def _show_scores(base: Base, task: Task, adapter: Adapter, decoding: Decoding | None) -> None:
    """Scores on dev as the fit measured them, on all test sets, written as asked, and on held-out tasks."""
    scores = dict(adapter.scores)
    for name in (name for name in ("test", *task.ood) if name in task.splits):
        scores[name] = results.score_split(base, task, adapter, name, decoding=decoding)
    results.show_scores(scores)
    _show_held_out(adapter)


def _show_held_out(adapter: Adapter) -> None:
    """What the held-out tasks came to, before the fit and with the weights that it kept; nothing where there were none."""
    asked: list[Mapping[str, Any]] = adapter.provenance.get("watched", [])
    if not asked:
        return
    kept = adapter.provenance["best_step"] if adapter.provenance["settings"]["training"]["keep"] == "best" else 0
    after = next((entry for entry in asked if kept and entry["step"] == kept), asked[-1])
    rows = [
        (task, metric, f"{score['value']:.4f}", f"{after['scores'][task][metric]['value']:.4f}", f"{score['n']}")
        for task, own in asked[0]["scores"].items()
        for metric, score in own.items()
    ]
    say.table(("held out", "metric", "before", "after", "n"), rows, right=("before", "after", "n"))


def _show_search(adapter: Adapter) -> None:
    """What a strategy found, as text: a trigger, a pattern, words before the input, label words, or which sources were taken."""
    found: Mapping[str, Any] = adapter.provenance.get("search") or {}
    texts = (
        {"trigger": found["text"]} if "trigger" in found else {name: found[name] for name in ("pattern", "text") if name in found}
    )
    shown = {name: json.dumps(text, ensure_ascii=False) for name, text in texts.items()}
    words = found.get("words") or {label: [one["word"] for one in own] for label, own in (found.get("label_words") or {}).items()}
    if words:
        shown["words"] = "; ".join(f"{label}: {', '.join(own)}" for label, own in words.items())
    if "chosen" in found:
        shown["from"] = ", ".join(str(found["sources"][number]["folder"]) for number in found["chosen"])
    say.fields(shown)


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


def listeners(output: OutputOptions) -> list[Callback]:
    """Who tells of a fit, and who writes it down; raises as `loggers`."""
    return [ConsoleCallback(), *loggers(output)]


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
