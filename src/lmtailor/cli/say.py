"""What the command line says: results to stdout, all else to stderr; plain lines where there is no terminal."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

EVERY = 20.0
"""Seconds between lines on progress where there is no terminal."""


class _Results(Console):
    """The console for results."""

    def on_broken_pipe(self) -> NoReturn:
        """Whoever reads has stopped; rich's own answer is to exit at once."""
        raise BrokenPipeError


def stdout() -> Console:
    """The console for results that are more than lines."""
    return _Results(highlight=False)


def stderr() -> Console:
    """The console for all that is no result. A terminal's lines break between words; a line for a file stays whole."""
    console = Console(stderr=True, highlight=False)
    console.soft_wrap = not console.is_terminal
    return console


def error(message: str) -> None:
    """The one line that a failed run ends with."""
    stderr().print(f"[bold red]error:[/] {escape(' '.join(message.split()))}")


def warn(message: str) -> None:
    """What is no error, but whoever reads the results must know."""
    stderr().print(f"[bold yellow]warning:[/] [yellow]{escape(message)}[/]")


def plain(message: str) -> None:
    """A line that is neither."""
    stderr().print(escape(message))


def result(text: str = "") -> None:
    """A line of results."""
    sys.stdout.write(text + "\n")


def json_line(values: object, *, indent: int | None = None) -> None:
    """A result for programs."""
    result(json.dumps(values, ensure_ascii=False, indent=indent, allow_nan=False))


def in_terminal() -> bool:
    """Whether people read stdout as it comes."""
    return stdout().is_terminal


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Results in columns; where nobody looks, lines with tabs between the cells.

    Args:
        columns: the header.
        rows: cells as text.
        right: columns of numbers, which are aligned at their ends.
    """
    if not in_terminal():
        for row in (columns, *rows):
            result("\t".join(" ".join(cell.split()) for cell in row))
        return
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        shown.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=column == columns[0])
    for row in rows:
        shown.add_row(*map(escape, row))
    stdout().print(shown)


def fields(pairs: Mapping[str, str]) -> None:
    """Results as a name and a value a line."""
    if not in_terminal():
        for name, value in pairs.items():
            result(f"{name}\t{value}")
        return
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in pairs.items():
        shown.add_row(name, escape(value))
    stdout().print(shown)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """A turning mark in a terminal while something takes a moment."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    with console.status(escape(what)):
        yield


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to tell how much of how much is done: a bar in a terminal, else a line now and then."""
    console = stderr()
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(escape(what), total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    said = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            plain(f"{what}: {done}/{total}")

    yield tell


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """A function to tell what of a long work goes on, and how much of how much of it is done: a line a stage, and a bar."""
    console = stderr()
    said, now = time.monotonic(), ""
    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("", total=None, visible=False)

        def tell(what: str, done: int, total: int) -> None:
            nonlocal said, now
            if what != now:
                now, said = what, time.monotonic()
                console.print(escape(what))
                bars.reset(bar, description="", total=total, visible=True)
            elif not console.is_terminal and time.monotonic() - said >= EVERY:
                said = time.monotonic()
                plain(f"{what}: {done}/{total}")
            bars.update(bar, completed=done, total=total)

        yield tell
