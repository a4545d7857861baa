"""Writes the pages of docs/ that are generated from the code; with --check, says which are out of date and exits with 1.

python scripts/docs.py [--check]
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path

from lmtailor.core.files import write_text
from lmtailor.methods import catalogue
from lmtailor.methods.method import Method

DOCS = Path(__file__).resolve().parent.parent / "docs"
NOTE = "<!-- Written by scripts/docs.py from the code. Do not edit: change the code and run `make docs`. -->"


def methods_page() -> str:
    """The catalogue of methods as one table."""
    rows = [_row(name, method) for name, method in catalogue().items()]
    return "\n".join(
        [
            NOTE,
            "",
            "# Methods",
            "",
            "Each is one file in `src/lmtailor/methods/`, whose docstring has the equation, the shapes and the start.",
            "On the command line: `--method lora --set method.rank=16`; in Python: `lmtailor.methods.LoRA(rank=16)`.",
            "",
            "| name | in Python | what it trains | trained parameters | settings and their defaults | paper |",
            "| --- | --- | --- | --- | --- | --- |",
            *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows),
            "",
        ]
    )


PAGES: dict[str, Callable[[], str]] = {"methods.md": methods_page}
"""Each generated page by its name in docs/."""


def main(arguments: list[str]) -> int:
    """Write or check every page; the exit code."""
    stale = []
    for name, page in PAGES.items():
        path = DOCS / name
        if path.exists() and path.read_text("utf-8") == page():
            continue
        stale.append(name)
        if arguments != ["--check"]:
            write_text(path, page())
    if stale and arguments == ["--check"]:
        print(f"Out of date in docs/: {', '.join(stale)}. Run `make docs` and commit what it writes.", file=sys.stderr)
        return 1
    return 0


def _row(name: str, method: type[Method]) -> list[str]:
    summary = (inspect.getdoc(method) or "").split("\n\n")[0].replace("\n", " ")
    settings = ", ".join(_setting(field) for field in fields(method))
    return [f"`{name}`", f"`{method.__name__}`", summary, method.formula, settings or "none", method.paper]


def _setting(field: "Field[object]") -> str:
    if field.default is not MISSING:
        return f"`{field.name}={field.default!r}`"
    if field.default_factory is not MISSING:
        return f"`{field.name}={field.default_factory()!r}`"
    return f"`{field.name}` (required)"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
