"""`lmtailor strategies`."""

from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from lmtailor.cli import say


def run(*, as_json: Annotated[bool, Parameter(name="--json")] = False) -> None:
    """List the strategies, the ways to an adapter that take a search or more than one fit.

    Args:
        as_json: Write one JSON object for each strategy.
    """
    from lmtailor.cli.strategy_table import strategy_rows

    rows = strategy_rows()
    if as_json:
        for row in rows:
            say.json_line(vars(row))
    elif say.in_terminal():
        shown = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), header_style="bold")
        shown.add_column("strategy", no_wrap=True)
        shown.add_column("what it does, and its settings", ratio=1)
        for row in rows:
            words = Text.assemble(row.what, ("\n" + "  ".join(row.settings), "cyan"), ("\n" + row.paper, "dim"))
            shown.add_row(Text.assemble((row.name, "bold"), "\n", (row.python, "dim")), words)
        say.stdout().print(shown)
    else:
        cells = [[row.name, row.python, row.what, " ".join(row.settings), row.paper] for row in rows]
        say.table(["name", "class", "what", "settings", "paper"], cells)
