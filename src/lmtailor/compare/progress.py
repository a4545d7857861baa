"""What a comparison says while it runs: bars in a terminal, a line now and then without one."""

import time
from collections.abc import Mapping
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from lmtailor.compare.numbers import duration, metric_name, score
from lmtailor.compare.record import RunRecord

EVERY = 30.0
"""Seconds between lines about one run without a terminal."""


class Reporter:
    """Tells how far a comparison is, one line a run."""

    def __init__(self, console: Console, *, metric: str, split: str, total: int) -> None:
        """Say nothing yet.

        Args:
            console: to write to.
            metric: that ranks.
            split: that ranks.
            total: number of runs.
        """
        self.console, self._metric, self._split, self._total = console, metric, split, total
        self._done = self._before = 0
        self._seconds: dict[str, list[float]] = {}
        """Cell → how long its runs took."""
        self._name, self._said = "", 0.0
        self._progress: Progress | None = None
        self._all = self._one = TaskID(0)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total} {task.fields[unit]}"),
                TextColumn("{task.fields[left]}", style="dim"),
                console=self.console,
                transient=True,
            )
            self._all = self._progress.add_task("comparison", total=self._total, unit="runs", left="")
            self._one = self._progress.add_task("", total=1, unit="", left="", visible=False)
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._flush()
        if self._progress is not None:
            self._progress.stop()

    def note(self, text: str) -> None:
        """A line that is not about one run."""
        self.console.print(Text(text))

    def warn(self, text: str) -> None:
        """What whoever reads the results must know."""
        self.console.print(Text.assemble(("warning: ", "bold yellow"), (text, "yellow")))

    def started(self, cell: str, seed: int) -> None:
        """A run begins."""
        self.began(f"{cell}, seed {seed}")

    def began(self, name: str) -> None:
        """Something begins, of which `tick` tells how far it is."""
        self._flush()
        self._name, self._said = name, time.monotonic()
        if self._progress is not None:
            self._progress.update(self._one, description=self._name, completed=0, total=1, unit="", visible=True)

    def tick(self, what: str, done: int, total: int) -> None:
        """A run goes on."""
        if self._progress is not None:
            self._progress.update(self._one, completed=done, total=total, unit=f"{what}s")
        elif time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            self.note(f"    {self._name}: {what} {done} of {total}")

    def finished(self, record: RunRecord, seconds: float, remaining: Mapping[str, int]) -> None:
        """A run has ended.

        Args:
            record: of the run.
            seconds: that it took.
            remaining: cell → how many of its runs are still to come.
        """
        self._done += 1
        self._seconds.setdefault(record.cell, []).append(seconds)
        left = self._left(remaining)
        if self._progress is not None:
            self._progress.update(self._all, completed=self._done, left=left)
            self._progress.update(self._one, visible=False)
        self._line(record, left)

    def reused(self, record: RunRecord) -> None:
        """A run was done before."""
        self._done += 1
        self._before += 1
        self._seconds.setdefault(record.cell, []).append(record.seconds)
        if self._progress is not None:
            self._progress.update(self._all, completed=self._done)

    def _flush(self) -> None:
        """Say how many runs were done before, once for all that stand together."""
        if self._before:
            runs = "1 run was" if self._before == 1 else f"{self._before} runs were"
            self.console.print(Text(f"{runs} done before.", style="dim"))
            self._before = 0

    def _line(self, record: RunRecord, left: str) -> None:
        if record.status == "failed":
            outcome, style = f"failed: {record.reason}", "red"
        else:
            value = record.scores[self._split][self._metric].value
            fit = f", fit {duration(record.fit_seconds)}" if record.fit_seconds else ""
            outcome, style = f"{metric_name(self._metric)} {score(value)}{fit}", ""
        width = len(str(self._total))
        line = Text(f"[{self._done:>{width}}/{self._total}] {record.cell}, seed {record.seed}: ")
        line.append(outcome, style=style)
        if left and self._progress is None:
            line.append(f" · {left}", style="dim")
        self.console.print(line)

    def _left(self, remaining: Mapping[str, int]) -> str:
        """How long the rest will take, by what cells took so far."""
        if not sum(remaining.values()):
            return ""
        mean = fmean(seconds for own in self._seconds.values() for seconds in own)
        left = sum(count * (fmean(own) if (own := self._seconds.get(cell)) else mean) for cell, count in remaining.items())
        return f"about {duration(left) if left >= 99.5 else f'{left:.0f} s'} left"
