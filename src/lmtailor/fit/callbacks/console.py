"""Progress for people: a live bar in a terminal, a line now and then elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lmtailor.fit.callbacks.callback import Ended, Evaluated, Started, Stepped

EVERY = 20.0
"""Seconds between lines without a terminal."""


class ConsoleCallback:
    """Writes to stderr, so that stdout stays free for results."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        # A terminal's lines break between words; a line for a file stays whole.
        self.console.soft_wrap = not self.console.is_terminal
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._total = 0
        self._loss = 0.0
        self._rate = 0.0
        self._begun = self._said = time.monotonic()
        self._first = 0

    def started(self, event: Started) -> None:
        """Say what is trained, then show a bar."""
        share = 100 * event.trained / max(1, event.total)
        self.console.print(
            f"[bold]{event.method}[/] · {event.readout} · {event.trained:,} trained numbers ({share:.2g} % of the base) · "
            f"{event.examples:,} examples · {event.steps:,} steps"
        )
        for note in event.notes:
            self.console.print(f"  [dim]{note}[/]")
        self._total, self._first = event.steps, event.step
        self._begun = self._said = time.monotonic()
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("  step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("loss {task.fields[loss]:.4f} · {task.fields[rate]:,.0f} tokens/s · left"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._progress.start()
            self._bar = self._progress.add_task("fit", total=event.steps, completed=event.step, loss=0.0, rate=0.0)

    def stepped(self, event: Stepped) -> None:
        """Move the bar, or write a line if the last one is old."""
        smooth = 0.95 if self._rate else 0.0
        self._loss = smooth * self._loss + (1 - smooth) * event.loss
        self._rate = smooth * self._rate + (1 - smooth) * event.tokens / max(event.seconds, 1e-9)
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=event.step, loss=self._loss, rate=self._rate)
        elif time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            done = max(1, event.step - self._first)
            left = (self._said - self._begun) / done * (self._total - event.step)
            self.console.print(
                f"  step {event.step}/{self._total} · loss {self._loss:.4f} · {self._rate:,.0f} tokens/s · {left:.0f} s left",
                highlight=False,
            )

    def evaluated(self, event: Evaluated) -> None:
        """One line an evaluation."""
        shown = " · ".join(f"{name} {score.value:.4f}" for name, score in event.scores.items())
        star = " [green]best so far[/]" if event.best else ""
        self.console.print(
            f"  epoch {event.epoch:.2f} · step {event.step} · loss {event.loss:.4f} · dev {shown}{star}",
            highlight=False,
        )

    def ended(self, event: Ended) -> None:
        """Stop the bar and say how it ended."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self.console.print(f"  {event.reason} after {event.step} steps, {event.seconds:.1f} s", highlight=False)
