"""`lmtailor doctor`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from lmtailor.cli import say

if TYPE_CHECKING:
    from lmtailor.cli.health import Check


def run() -> int:
    """Say what is installed, what this machine has, and whether it works.

    A small model is made in memory, adapted, trained for a step, stored and read again. The exit code is 0 if all of that
    works, else 1.
    """
    from lmtailor.cli import health

    failed = 0
    for title, checks in (
        ("versions", health.versions()),
        ("machine", health.machine()),
        ("hub and disk", health.places()),
        ("does it work?", health.trials()),
    ):
        _show(title, checks)
        failed += sum(check.fine is False for check in checks)
    return 1 if failed else 0


def _show(title: str, checks: "Sequence[Check]") -> None:
    if not say.in_terminal():
        for check in checks:
            say.result("\t".join((title, {True: "ok", False: "FAILED", None: ""}[check.fine], check.name, check.found)))
        return
    shown = Table(box=None, show_header=False, title=title, title_justify="left", title_style="bold", padding=(0, 1, 0, 0))
    shown.add_column(width=1)
    shown.add_column(width=20)
    shown.add_column()
    for check in checks:
        mark, style = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("·", "dim")}[check.fine]
        shown.add_row(Text(mark, style=style), check.name, Text(check.found))
    say.stdout().print(shown)
