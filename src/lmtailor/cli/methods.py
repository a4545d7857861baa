"""`lmtailor methods`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from lmtailor.cli import say
from lmtailor.cli.options import MachineOptions

if TYPE_CHECKING:
    from lmtailor.cli.method_table import MethodRow

_MACHINE = MachineOptions()

LEGEND = (
    "✓ merge: it can be put into the weights. ✓ mix: rows of one batch can wear different adapters of it. ✓ PEFT: PEFT reads it. "
    "All with default settings and without the readout, of what is kept after training. Letters: I, O inputs and outputs of a "
    "projection; H features of a state; L layers; D parameters of the base; Σ over the sites."
)


def run(
    base: str | None = None,
    *,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    machine: MachineOptions = _MACHINE,
) -> None:
    """List the methods; with a base also what they would train in it.

    ```
    lmtailor methods MODEL
    ```

    Args:
        base: Hub id, folder or .gguf file of a pretrained model.
        as_json: Write one JSON object for each method.
        machine: How the base is loaded.
    """
    from lmtailor.cli import choices
    from lmtailor.cli.method_table import method_rows

    loaded = None if base is None else choices.the_base(base, machine)
    with say.doing("trying every method"):
        rows = method_rows(loaded)
    if as_json:
        for row in rows:
            say.json_line(_values(row))
    elif say.in_terminal():
        _show(rows)
    else:
        _plain(rows)


def _show(rows: "Sequence[MethodRow]") -> None:
    """A table for people, three columns wide: the name, all that is said in words, and the rest."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), header_style="bold")
    shown.add_column("method", no_wrap=True)
    shown.add_column("what it trains, where, and its settings", ratio=1)
    shown.add_column("can")
    where = "not on this base" if any(row.on_base for row in rows) else "not tried"
    for row in rows:
        words = Text.assemble(row.what, "\n", (f"{row.formula}{_counted(row)}", "bold" if row.on_base else ""))
        if row.refused:
            words.append(f"\n{where}: {row.refused}", style="yellow")
        if f"at={row.sites}" not in row.settings:
            words.append(f"\nat {row.sites}", style="cyan")
        if row.settings:
            words.append(f"\n{'  '.join(row.settings)}", style="cyan")
        words.append(f"\n{row.paper}", style="dim")
        shown.add_row(Text.assemble((row.name, "bold"), "\n", (row.python, "dim")), words, "\n".join(_abilities(row)))
    console = say.stdout()
    console.print(shown)
    console.print(LEGEND, style="dim")


def _plain(rows: "Sequence[MethodRow]") -> None:
    counts = any(row.on_base or row.refused for row in rows)
    columns = ["name", "class", "what", "settings", "sites", "parameters", "merges", "shares a batch", "PEFT", "paper"]
    cells = [
        [row.name, row.python, row.what, " ".join(row.settings), row.sites, row.formula]
        + [_yes(row.merges), _yes(row.shares_batch), _yes(row.peft), row.paper]
        + ([_counted(row).removeprefix(" = ") or row.refused] if counts else [])
        for row in rows
    ]
    say.table([*columns, *(["in this base"] if counts else [])], cells)


def _counted(row: "MethodRow") -> str:
    if row.on_base is None:
        return ""
    return f" = {row.on_base.parameters:,} ({100 * row.on_base.share:.3g} % of the base)"


def _abilities(row: "MethodRow") -> list[str]:
    has = {"merge": row.merges, "mix": row.shares_batch, "PEFT": row.peft}
    return [f"{'✓' if value else '–'} {name}" for name, value in has.items()]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _values(row: "MethodRow") -> dict[str, object]:
    count = None if row.on_base is None else vars(row.on_base)
    return {**vars(row), "on_base": count}
