"""The house rules that a reader relies on, checked from the syntax tree of every source file.

`violations(files)` takes {path in the package: source text}, so the rules are tested on small bad trees too.
"""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "lmtailor"

ROOMS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("base", "tasks"),
    ("edits", "readouts", "objectives"),
    ("methods",),
    ("store",),
    ("infer",),
    ("fit",),
    ("strategies",),
    ("serve", "compare"),
    ("cli",),
)
"""A module imports only from lines above its own, or from its own room."""

LINE = {room: number for number, line in enumerate(ROOMS) for room in line}
FRONT = ("__init__.py", "__main__.py")  # the lazy façade and `python -m`: they stand in no room
IMPORTS_LATE = ("__init__.py", "cli/")  # the façade, and the dispatch that loads one verb
IMPORTS_BY_NAME = (*IMPORTS_LATE, "core/discovery.py")  # the discovery of methods and strategies by file name
READS_ENVIRONMENT = ("cli/",)

MAX_LINES = 400
MAX_FUNCTION_LINES = 60
CATCH_ALL_NAMES = ("util", "utils", "helper", "helpers", "misc", "common")
FORBIDDEN_MODULES = {
    **dict.fromkeys(("peft", "adapters", "trl", "lm_eval"), "is for parity tests, never imported by the package"),
    **dict.fromkeys(("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"), "unpickles"),
}
FORBIDDEN_CALLS = {
    "eval": "runs data as code",
    "exec": "runs data as code",
    "torch.load": "unpickles",
    "*.load_state": "accelerate's own checkpoint loading unpickles",
    "*.read_pickle": "unpickles",
}
ENVIRONMENT = ("os.environ", "os.getenv", "os.putenv", "sys.argv")


class Violation(NamedTuple):
    """One broken rule."""

    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


class Import(NamedTuple):
    """One imported module, with whether the import stands in a function."""

    target: str
    line: int
    local: bool


def violations(files: Mapping[str, str]) -> list[Violation]:
    """Every broken rule in a package given as {path in the package: source text}."""
    modules = {_module(path): path for path in files}
    found: list[Violation] = []
    edges: dict[str, set[str]] = {}
    for path, text in files.items():
        tree = ast.parse(text, path)
        imports = list(_imports(tree, _package(path), modules))
        if path not in FRONT:
            edges[_module(path)] = {each.target for each in imports if each.target in modules and not each.local}
        found += _sizes(path, text, tree)
        found += _directions(path, imports)
        found += _forbidden(path, tree, imports)
    return found + _cycles(edges, modules)


def _module(path: str) -> str:
    """core/files.py → lmtailor.core.files"""
    dotted = path.removesuffix(".py").removesuffix("__init__").strip("/").replace("/", ".")
    return f"{PACKAGE}.{dotted}".rstrip(".")


def _package(path: str) -> str:
    return f"{PACKAGE}.{Path(path).parent.as_posix().replace('/', '.')}".rstrip(".")


def _room(path: str) -> str:
    return path.split("/", maxsplit=1)[0]


def _named(path: str, exceptions: tuple[str, ...]) -> bool:
    return any(path == one or (one.endswith("/") and path.startswith(one)) for one in exceptions)


def _imports(tree: ast.AST, package: str, modules: Mapping[str, str]) -> Iterator[Import]:
    """What a file imports, each name resolved to the module that it is, or that it is in."""
    for node, local in _walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, local) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in modules else base, node.lineno, local)


def _walk(tree: ast.AST, local: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes, with whether they stand in a function."""
    for node in ast.iter_child_nodes(tree):
        yield node, local
        yield from _walk(node, local or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _sizes(path: str, text: str, tree: ast.AST) -> Iterator[Violation]:
    lines = len(text.splitlines())
    if lines > MAX_LINES:
        yield Violation(path, lines, "file size", f"{lines} lines; {MAX_LINES} at most")
    for part in Path(path).parts:
        if part.removesuffix(".py") in CATCH_ALL_NAMES:
            yield Violation(path, 1, "name", f"{part} says nothing; name it for what it holds")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                message = f"{node.name} has {length} lines; {MAX_FUNCTION_LINES} at most"
                yield Violation(path, node.lineno, "function size", message)


def _directions(path: str, imports: list[Import]) -> Iterator[Violation]:
    if path in FRONT:
        return
    room = _room(path)
    if room not in LINE:
        yield Violation(path, 1, "room", f"{room} is no room; the rooms are {', '.join(LINE)}")
        return
    for each in imports:
        if each.target.split(".")[0] != PACKAGE:
            continue
        if each.local and not _named(path, IMPORTS_LATE):
            yield Violation(path, each.line, "local import", f"{each.target} is imported in a function")
        other = each.target.split(".")[1] if "." in each.target else None
        if other is None:
            yield Violation(path, each.line, "direction", "the façade stands below all rooms; import from the room itself")
        elif other not in LINE or LINE[other] > LINE[room] or (LINE[other] == LINE[room] and other != room):
            yield Violation(path, each.line, "direction", f"{room} may not import from {other}")


def _forbidden(path: str, tree: ast.AST, imports: list[Import]) -> Iterator[Violation]:
    for each in imports:
        reason = FORBIDDEN_MODULES.get(each.target.split(".")[0])
        if reason:
            yield Violation(path, each.line, "forbidden import", f"{each.target} {reason}")
    aliases = _aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            name = _dotted(node, aliases)
            if name in ENVIRONMENT and not _named(path, READS_ENVIRONMENT):
                yield Violation(path, node.lineno, "environment", f"{name} is read in cli/ alone")
        if isinstance(node, ast.Call):
            yield from _forbidden_call(path, node, aliases)


def _forbidden_call(path: str, node: ast.Call, aliases: Mapping[str, str]) -> Iterator[Violation]:
    name = _dotted(node.func, aliases)
    reason = FORBIDDEN_CALLS.get(name) or FORBIDDEN_CALLS.get(f"*.{name.rpartition('.')[2]}" if "." in name else "")
    if reason:
        yield Violation(path, node.lineno, "forbidden call", f"{name} {reason}")
    if name in ("importlib.import_module", "__import__") and not _named(path, IMPORTS_BY_NAME):
        yield Violation(path, node.lineno, "import by name", f"{name} hides an import from this test")
    for keyword in node.keywords:
        if keyword.arg == "allow_pickle" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False):
            yield Violation(path, node.lineno, "forbidden call", "allow_pickle unpickles")


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Local names of imported things: {"T": "torch", "environ": "os.environ"}."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _dotted(node: ast.expr, aliases: Mapping[str, str]) -> str:
    """os.environ → "os.environ", with import aliases undone; what is no plain name becomes "?"."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, aliases)}.{node.attr}"
    return "?"


def _cycles(edges: Mapping[str, set[str]], modules: Mapping[str, str]) -> list[Violation]:
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return [Violation(modules[cycle[0]], 1, "cycle", " → ".join(reversed(cycle)))]
    return []


def _package_files() -> dict[str, str]:
    source = ROOT / "src" / PACKAGE
    return {path.relative_to(source).as_posix(): path.read_text("utf-8") for path in sorted(source.rglob("*.py"))}


def test_the_package_keeps_the_rules() -> None:
    found = violations(_package_files())
    assert not found, "\n" + "\n".join(map(str, found))


def test_the_design_page_lists_the_same_rooms() -> None:
    page = (ROOT / "docs" / "design.md").read_text("utf-8").split("## Rooms")[1]
    listed = [line.split() for line in page.split("```")[1].strip().splitlines()]
    assert [tuple(words[: len(line)]) for words, line in zip(listed, ROOMS, strict=True)] == list(ROOMS)


GOOD = {
    "__init__.py": "from importlib import import_module\ndef __getattr__(name): return import_module('lmtailor.fit.fit')",
    "core/errors.py": "import os.path\nclass LMTailorError(Exception): ...",
    "base/load.py": "from lmtailor.core.errors import LMTailorError\nfrom lmtailor.base import sites\nmodel.eval()",
    "base/sites.py": "import torch\nfrom lmtailor.core import errors\ntorch.save",
    "cli/main.py": "import os\ndef verb():\n    from lmtailor.fit import fit\n    return os.environ['HOME']",
}
"""A small house that keeps every rule."""

BAD = [
    ("direction", "core/files.py", "from lmtailor.base.sites import Site"),
    ("direction", "base/load.py", "import lmtailor.tasks.task"),
    ("direction", "base/load.py", "from ..tasks import task"),
    ("direction", "base/load.py", "from lmtailor import fit"),
    ("direction", "base/load.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lmtailor.fit import fit"),
    ("cycle", "base/sites.py", "from lmtailor.base.load import load_base"),
    ("cycle", "base/sites.py", "from . import load"),
    ("local import", "base/load.py", "def f():\n    from lmtailor.core import errors"),
    (
        "local import",
        "base/load.py",
        "class A:\n    async def f(self):\n        if 1:\n            import lmtailor.core.errors",
    ),
    ("import by name", "base/load.py", "import importlib as i\ni.import_module('lmtailor.fit')"),
    ("room", "zoo/animals.py", "x = 1"),
    ("room", "stray.py", "x = 1"),
    ("name", "base/utils.py", "x = 1"),
    ("name", "base/helpers/rows.py", "x = 1"),
    ("file size", "base/load.py", "x = 1\n" * 401),
    ("function size", "base/load.py", "def f():\n" + "    x = 1\n" * 60),
    ("environment", "base/load.py", "import os\nos.environ.get('HOME')"),
    ("environment", "base/load.py", "from os import getenv as g\ng('HOME')"),
    ("environment", "fit/fit.py", "import sys\nprint(sys.argv[1:])"),
    ("forbidden import", "store/export.py", "from peft.tuners import lora"),
    ("forbidden import", "store/export.py", "def f():\n    import pickle"),
    ("forbidden call", "store/export.py", "import torch as t\nt.load('x')"),
    ("forbidden call", "store/export.py", "from torch import load\nload('x')"),
    ("forbidden call", "store/export.py", "eval('1')"),
    ("forbidden call", "store/export.py", "exec('1')"),
    ("forbidden call", "fit/fit.py", "self.accelerator.load_state('x')"),
    ("forbidden call", "tasks/table.py", "import numpy as np\nnp.load('x', allow_pickle=True)"),
]


def test_a_good_house_has_no_violations() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize(("rule", "path", "text"), BAD, ids=lambda value: str(value)[:40].replace("\n", " "))
def test_each_rule_finds_what_breaks_it(rule: str, path: str, text: str) -> None:
    (only,) = violations({**GOOD, path: text})
    assert only.rule == rule
    assert only.path == path or rule == "cycle"  # a cycle is reported at any of its modules
