"""Progress for people: a live bar in a terminal, a line now and then elsewhere."""

import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lmtailor.fit.callbacks.callback import Asked, Ended, Evaluated, HearsAsked, Started, Stepped

EVERY = 20.0
"""Seconds between lines without a terminal."""


class ConsoleCallback(HearsAsked):
    """Writes to stderr, so that stdout stays free for results."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        # A terminal's lines break between words; a line for a file stays whole.
        self.console.soft_wrap = not self.console.is_terminal
        self._progress: Progress | None = None
        self._fits: dict[str, _Fit] = {}
        """By the adapter's name."""

    def started(self, event: Started) -> None:
        """Say what is trained, then show a bar."""
        share = 100 * event.trained / max(1, event.total)
        self.console.print(
            f"{_who(event.name)}[bold]{event.method}[/] · {event.readout} · {event.trained:,} trained numbers "
            f"({share:.2g} % of the base) · {_counted(event.examples, 'example')} · {_counted(event.steps, 'step')}"
        )
        for note in event.notes:
            self.console.print(f"  [dim]{escape(note)}[/]")
        if self._progress is None and self.console.is_terminal:
            self._progress = Progress(
                TextColumn("  {task.description}step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("loss {task.fields[loss]:.4f} · {task.fields[rate]:,.0f} tokens/s · left"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._progress.start()
        bar = None
        if self._progress is not None:
            bar = self._progress.add_task(_who(event.name), total=event.steps, completed=event.step, loss=0.0, rate=0.0)
        self._fits[event.name] = _Fit(total=event.steps, first=event.step, bar=bar)

    def stepped(self, event: Stepped) -> None:
        """Move the bar, or write a line if the last one is old."""
        fit = self._fits[event.name]
        smooth = 0.95 if fit.rate else 0.0
        fit.loss = smooth * fit.loss + (1 - smooth) * event.loss
        fit.rate = smooth * fit.rate + (1 - smooth) * event.tokens / max(event.seconds, 1e-9)
        if self._progress is not None and fit.bar is not None:
            self._progress.update(fit.bar, completed=event.step, loss=fit.loss, rate=fit.rate)
        elif time.monotonic() - fit.said >= EVERY:
            fit.said = time.monotonic()
            done = max(1, event.step - fit.first)
            left = (fit.said - fit.begun) / done * (fit.total - event.step)
            self.console.print(
                f"  {_who(event.name)}step {event.step}/{fit.total} · loss {fit.loss:.4f} · {fit.rate:,.0f} tokens/s · "
                f"{left:.0f} s left",
                highlight=False,
            )

    def evaluated(self, event: Evaluated) -> None:
        """One line an evaluation."""
        shown = " · ".join(f"{name} {score.value:.4f}" for name, score in event.scores.items())
        star = " [green]best so far[/]" if event.best else ""
        self.console.print(
            f"  {_who(event.name)}epoch {event.epoch:.2f} · step {event.step} · loss {event.loss:.4f} · dev {shown}{star}",
            highlight=False,
        )

    def asked(self, event: Asked) -> None:
        """One line for all held-out tasks."""
        shown = " · ".join(f"{escape(task)} {one.value:.4f}" for task, own in event.scores.items() for one in own.values())
        self.console.print(f"  {_who(event.name)}step {event.step} · held out {shown}", highlight=False)

    def ended(self, event: Ended) -> None:
        """Stop the bar and say how it ended."""
        self._fits.pop(event.name, None)
        if self._progress is not None and not self._fits:
            self._progress.stop()
            self._progress = None
        done = f"{event.reason} after {_counted(event.step, 'step')}, {event.seconds:.1f} s"
        self.console.print(f"  {_who(event.name)}{done}", highlight=False)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@dataclass
class _Fit:
    """What is known of one adapter's fit."""

    total: int
    first: int
    """Steps done before this session."""
    bar: TaskID | None
    loss: float = 0.0
    rate: float = 0.0
    begun: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)


def _who(name: str) -> str:
    """The start of a line about one of several adapters."""
    return f"{escape(name)} · " if name else ""
