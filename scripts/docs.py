"""Writes the pages of docs/ that are generated from the code; with --check, says which are out of date and exits with 1.

python scripts/docs.py [--check]
"""

import sys
from collections.abc import Callable
from pathlib import Path

from lmtailor.cli.app import EPILOGUE, command_line
from lmtailor.cli.method_table import MethodRow, method_rows
from lmtailor.cli.strategy_table import strategy_rows
from lmtailor.core.files import write_text

DOCS = Path(__file__).resolve().parent.parent / "docs"
NOTE = "<!-- Written by scripts/docs.py from the code. Do not edit: change the code and run `make docs`. -->"


ERRORS = f"""\
Results go to stdout, all else to stderr. An error is one line there. {EPILOGUE}

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | a defect of lmtailor, or `doctor` found a fault |
| 2 | something that you can mend: input, options, settings, disk space, a loss that is no number; Ctrl-C |
| 141 | whoever read the output stopped reading |"""


def methods_page() -> str:
    """The catalogue of methods as one table."""
    return "\n".join(
        [
            NOTE,
            "",
            "# Methods",
            "",
            "Each is one file in `src/lmtailor/methods/`, whose docstring has the equation, the shapes and the start.",
            "On the command line: `--method lora --set method.rank=16`; in Python: `lmtailor.methods.LoRA(rank=16)`.",
            "",
            "merges: it can be put into the weights. shares a batch: rows of one batch can wear different adapters of it. PEFT:",
            "PEFT reads its folders. Where it acts, and these three, are as found with the default settings.",
            "`lmtailor methods MODEL` counts the parameters in a model.",
            "",
            "| name | in Python | what it trains | where | trained parameters | settings and their defaults "
            "| merges | shares a batch | PEFT | paper |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *("| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in method_rows()),
            "",
        ]
    )


def strategies_page() -> str:
    """The catalogue of strategies as one table."""
    rows = [
        [f"`{row.name}`", f"`{row.python}`", row.what, ", ".join(f"`{one}`" for one in row.settings) or "none", row.paper]
        for row in strategy_rows()
    ]
    return "\n".join(
        [
            NOTE,
            "",
            "# Strategies",
            "",
            "Ways from data to an adapter that take a search or more than one fit. Each is one file in",
            "`src/lmtailor/strategies/`, whose docstring has the equations and says where paper and code differ.",
            "On the command line: `lmtailor adapt MODEL --task card.toml --strategy pet --set generations=3`; in Python:",
            '`lmtailor.adapt(base, task, strategy=lmtailor.strategies.PET(generations=3))`; in a plan: `strategy = "pet"`.',
            "",
            "| name | in Python | what it does | settings and their defaults | paper |",
            "| --- | --- | --- | --- | --- |",
            *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows),
            "",
        ]
    )


def cli_page() -> str:
    """The command line's own help, verb by verb."""
    return f"{NOTE}\n\n{command_line().generate_docs().rstrip()}\n\n## Errors and exit codes\n\n{ERRORS}\n"


PAGES: dict[str, Callable[[], str]] = {"cli.md": cli_page, "methods.md": methods_page, "strategies.md": strategies_page}
"""Each generated page by its name in docs/."""


def main(arguments: list[str]) -> int:
    """Write or check every page; the exit code."""
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if path.exists() and path.read_text("utf-8") == text:
            continue
        stale.append(name)
        if arguments != ["--check"]:
            write_text(path, text)
    if stale and arguments == ["--check"]:
        print(f"Out of date in docs/: {', '.join(stale)}. Run `make docs` and commit what it writes.", file=sys.stderr)
        return 1
    return 0


def _cells(row: MethodRow) -> list[str]:
    settings = ", ".join(f"`{setting}`" for setting in row.settings)
    can = ["yes" if value else "no" for value in (row.merges, row.shares_batch, row.peft)]
    sites = row.sites if row.sites in ("none", "weights") else f"`{row.sites}`"
    return [f"`{row.name}`", f"`{row.python}`", row.what, sites, row.formula, settings or "none", *can, row.paper]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
