"""The package's front door: light to import, complete, and true to its own table."""

import ast
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import lmtailor

SOURCE = Path(lmtailor.__file__ or "")
HEAVY = ("torch", "transformers", "datasets", "numpy", "pandas", "sklearn", "rich", "cyclopts")


def _python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert _python(f"import sys, lmtailor; print([name for name in {HEAVY!r} if name in sys.modules])") == "[]"


@pytest.mark.parametrize("name", sorted(lmtailor._HOME))
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(lmtailor, name)
    if name in ("methods", "strategies"):
        assert isinstance(value, ModuleType)
    else:
        assert value is getattr(importlib.import_module(lmtailor._HOME[name]), name)
        assert callable(value)
        assert inspect.getdoc(value), f"lmtailor.{name} has no docstring"


def test_the_functions_fit_and_compare_are_not_hidden_by_the_rooms_of_their_names() -> None:
    load_the_rooms_first = "import lmtailor, lmtailor.fit.fit, lmtailor.compare.compare"
    assert _python(f"{load_the_rooms_first}; print(callable(lmtailor.fit), callable(lmtailor.compare))") == "True True"


def test_type_checkers_see_what_the_table_says() -> None:
    block = next(node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        (alias,) = node.names
        assert alias.asname == alias.name
        seen[alias.name] = node.module
    assert seen == lmtailor._HOME
    assert set(lmtailor.__all__) == {"__version__", *seen}


def test_dir_lists_names_that_are_not_loaded_yet() -> None:
    listed = _python("import lmtailor; print(*dir(lmtailor))").split()
    assert set(lmtailor.__all__) <= set(listed)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        lmtailor.no_such_name  # noqa: B018
