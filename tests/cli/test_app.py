"""The command itself: help, versions, errors and exit codes."""

import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from cyclopts import CycloptsError

from lmtailor.cli import app
from lmtailor.cli.ending import ending
from lmtailor.core.errors import DataError, InputError, StateError, TrainingError
from lmtailor.core.version import __version__
from tests.cli.inputs import Command, process


def test_help_lists_every_verb_with_a_line(lmtailor: Command) -> None:
    outcome = lmtailor("--help")
    assert outcome.code == 0
    for verb in app.VERBS:
        (line,) = (line for line in outcome.out.splitlines() if line.startswith(f"│ {verb} "))
        assert len(line.split()) > 5
    assert "--debug" in outcome.out


@pytest.mark.parametrize("verb", app.VERBS)
def test_each_verb_has_help(lmtailor: Command, verb: str) -> None:
    outcome = lmtailor(verb, "--help")
    assert outcome.code == 0
    assert outcome.out.startswith(f"Usage: lmtailor {verb}")


def test_help_says_something_on_every_option() -> None:
    page = app.command_line().generate_docs()
    options = [line for line in page.splitlines() if line.startswith(("* `-", "* `BASE"))]
    assert len(options) > 80
    assert [line for line in options if line.endswith(("`:", "`: "))] == []


def test_version(lmtailor: Command) -> None:
    assert lmtailor("--version").out.strip() == __version__


def test_help_and_usage_errors_load_no_torch() -> None:
    script = (
        "import sys\nfrom lmtailor.cli import run\n"
        "assert run(['--help']) == 0 and run(['fit', '--help']) == 0 and run(['fit', '--wrong']) == 2\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    _, environment = process()
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_dash_m_runs_the_command() -> None:
    words, environment = process("fitt")
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert 'Did you mean "fit"?' in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["predikt"], 'Did you mean "predict"?'),
        (["fit"], "BASE"),
        (["fit", "base"], "--method is missing. See lmtailor fit --help."),
        (["fit", "base", "--method", "lora", "--epoch", "3"], "Did you mean --epochs?"),
        (["fit", "base", "--method", "lora", "--epochs", "many"], 'unable to convert "many"'),
        (["fit", "base", "--method", "lora", "--kind", "regresion"], 'Did you mean "regression"?'),
        (["fit", "base", "extra", "--method", "lora"], "Unexpected: extra. See lmtailor fit --help."),
        (["fit", "base", "--method", "lora", "--overwrite", "--no-overwrite"], "--no-overwrite"),
    ],
)
def test_usage_errors_are_one_line_with_near_names(lmtailor: Command, words: list[str], told: str) -> None:
    outcome = lmtailor(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.startswith("error: ")
    assert told in outcome.err


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (InputError("a wrong thing"), 2, "a wrong thing"),
        (DataError("a wrong file"), 2, "a wrong file"),
        (TrainingError("the loss is nan"), 2, "the loss is nan"),
        (StateError("nested attach"), 1, "nested attach"),
        (CycloptsError(msg="usage"), 2, "usage"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), 2, "No space left on the disk: /a/b."),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), 2, "Permission denied: /a."),
        (MemoryError(), 2, "Out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "--batch-size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 2, "Out of memory"),
        (RuntimeError("shapes differ\nmore"), 1, "RuntimeError: shapes differ (a defect of lmtailor"),
    ],
)
def test_how_errors_end_a_run(error: Exception, code: int, told: str) -> None:
    ended = ending(error)
    assert ended[0] == code
    assert told in ended[1]


class _Failing:
    """Stands in for the application."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, tokens: Sequence[str], **_: Any) -> NoReturn:
        raise self.error


def _fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    monkeypatch.setattr(app, "command_line", lambda: _Failing(error))


def test_debug_shows_the_traceback(lmtailor: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail(monkeypatch, InputError("a wrong thing"))
    quiet, loud = lmtailor("fit", "x"), lmtailor("fit", "--debug", "x")
    assert quiet.err == "error: a wrong thing\n"
    assert "Traceback" in loud.err
    assert loud.err.endswith(quiet.err)
    assert quiet.code == loud.code == 2


def test_debug_after_two_dashes_is_a_text(lmtailor: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail(monkeypatch, InputError("a wrong thing"))
    assert "Traceback" not in lmtailor("predict", "a", "b", "--", "--debug").err


def test_an_error_of_many_lines_and_brackets_is_one_line(lmtailor: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail(monkeypatch, InputError("a [bold]wrong[/] thing\n  in two lines " + "x" * 200))
    assert lmtailor("fit").err == f"error: a [bold]wrong[/] thing in two lines {'x' * 200}\n"


@pytest.mark.parametrize(("verb", "goes_on"), [("fit", True), ("compare", True), ("predict", False)])
def test_an_interrupt_is_one_line(lmtailor: Command, monkeypatch: pytest.MonkeyPatch, verb: str, goes_on: bool) -> None:
    _fail(monkeypatch, KeyboardInterrupt())
    outcome = lmtailor(verb)
    assert outcome.code == 2
    assert outcome.err == ("interrupted; run the same command again to go on\n" if goes_on else "interrupted\n")


def test_a_reader_that_stops_ends_the_run_silently(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert app.run(["--version"]) == 141
        pipe.write("what the interpreter flushes when it ends")
    assert capfd.readouterr().err == ""


def test_main_quietens_other_libraries_unless_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in app.QUIET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.setattr(warnings, "simplefilter", lambda action: None)
    monkeypatch.setattr(sys, "argv", ["lmtailor", "--version"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 0
    assert os.environ["TORCH_CPP_LOG_LEVEL"] == "ERROR"
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL")
    monkeypatch.setattr(sys, "argv", ["lmtailor", "--version", "--debug"])
    with pytest.raises(SystemExit):
        app.main()
    assert "TORCH_CPP_LOG_LEVEL" not in os.environ


def test_nothing_is_written_by_help(lmtailor: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lmtailor("fit", "--help")
    assert list(tmp_path.iterdir()) == []
