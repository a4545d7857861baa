"""The generated pages of docs/ are up to date."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.cli.inputs import ROOT


def test_the_generated_pages_are_what_the_code_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["docs.py"])  # usage lines show how the program was started
    script = runpy.run_path(str(ROOT / "scripts" / "docs.py"))
    assert script["main"](["--check"]) == 0, capsys.readouterr().err
    monkeypatch.setitem(script["main"].__globals__, "DOCS", tmp_path)
    assert script["main"](["--check"]) == 1
    assert "cli.md, methods.md, strategies.md" in capsys.readouterr().err
    assert script["main"]([]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cli.md", "methods.md", "strategies.md"]
