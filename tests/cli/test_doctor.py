"""`lmtailor doctor`."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lmtailor.cli import health, say
from lmtailor.core.version import __version__
from tests.cli.inputs import Command


def test_a_machine_that_works(lmtailor: Command) -> None:
    outcome = lmtailor("doctor")
    assert outcome.code == 0, outcome.out
    lines = [line.split("\t") for line in outcome.out.splitlines()]
    assert ["versions", "ok", "lmtailor", __version__] in lines
    worked = [line for line in lines if line[0] == "does it work?"]
    assert [line[1:3] for line in worked] == [["ok", "forward"], ["ok", "attach, train a step"], ["ok", "save and load"]]
    assert ["hub and disk", "", "HF_HUB_OFFLINE", "1"] in lines


def test_a_fault_is_told_and_ends_in_1(lmtailor: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "attach", _broken)
    outcome = lmtailor("doctor")
    assert outcome.code == 1
    assert "does it work?\tFAILED\tattach, train a step\tRuntimeError: no such kernel" in outcome.out
    assert "does it work?\tok\tsave and load" in outcome.out


def _broken(*_: object) -> None:
    raise RuntimeError("no such kernel")


def test_an_adapter_that_does_nothing_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "equal", lambda *_: True)
    (trial,) = (check for check in health.trials() if check.name.startswith("attach"))
    assert trial.fine is False


def test_a_missing_package_and_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "NEEDED", ("torch", "a-package-that-is-not-there"))
    assert [check.found for check in health.versions() if check.fine is False] == ["not installed"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert [check.name for check in health.places() if check.fine is False] == ["space for the cache", "space here"]


def test_a_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert [check.found for check in health.places() if check.name == "HF_TOKEN"] == ["set"]


def test_in_a_terminal(lmtailor: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(say, "in_terminal", lambda: True)
    shown = lmtailor("doctor").out
    assert max(map(len, shown.splitlines())) <= 80
    assert "✓ forward" in shown
    assert list(tmp_path.iterdir()) == []
