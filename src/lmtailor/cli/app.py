"""The command `lmtailor`: its verbs, and how a run of one ends.

A verb is a file beside this one with a function `run`, whose signature is its usage and whose docstring is its help. It
loads torch when it begins to work, so that help and usage errors come at once.
"""

import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from cyclopts import App, Parameter

from lmtailor.cli import say
from lmtailor.cli.ending import BROKEN_PIPE, INTERRUPTED, ending
from lmtailor.core.version import __version__

VERBS = (
    "fit",
    "adapt",
    "eval",
    "predict",
    "score",
    "generate",
    "compare",
    "sensitivity",
    "probe",
    "methods",
    "strategies",
    "inspect",
    "merge",
    "convert",
    "closeness",
    "export",
    "doctor",
)
"""In the order in which help lists them."""

GOES_ON = ("fit", "adapt", "compare", "sensitivity", "probe")
"""Verbs that go on where they were when they are called again."""

DEBUG = "--debug"
EPILOGUE = f"`{DEBUG}`, anywhere in a command, shows the traceback of an error and what other libraries say."

QUIET = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""What keeps other libraries from talking. A value that the user has set stands."""


def command_line() -> App:
    """The verbs as a cyclopts application."""
    app = App(
        name="lmtailor",
        help="Fit a pretrained language model to a task by every known route, compare the routes, and use the winner.",
        help_epilogue=EPILOGUE,
        help_format="plaintext",  # loading rich's Markdown takes a third of the time
        version=__version__,
        console=say.stdout(),
        default_parameter=Parameter(negative=(), show_default=_shown),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for number, verb in enumerate(VERBS):
        app.command(import_module(f"lmtailor.cli.{verb}").run, name=verb, help_format="markdown", sort_key=number)
    return app


def main() -> NoReturn:
    """The entry point: run the command line of this process, and exit."""
    arguments = sys.argv[1:]
    if DEBUG not in arguments:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        warnings.simplefilter("ignore")
    sys.exit(run(arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command line.

    Args:
        arguments: the words after `lmtailor`.

    Returns:
        The exit code: 0; 1 for a defect of ours or a failed check; 2 for what the user can mend, and after Ctrl-C; 141 if
        whoever read the output stopped.
    """
    tokens, debug = _without_debug(arguments)
    try:
        result = command_line()(tokens, exit_on_error=False, print_error=False, help_on_error=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        again = "; run the same command again to go on" if tokens[:1] and tokens[0] in GOES_ON else ""
        say.plain(f"interrupted{again}")
        return INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - here every error becomes one line
        if debug:
            traceback.print_exc()
        code, message = ending(error)
        say.error(message)
        return code
    return result if isinstance(result, int) else 0


def _shown(default: object) -> str | None:
    """A default as help shows it; "not given" is none worth showing."""
    return None if default is None or default is False or default == () else str(default)


def _without_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The words without --debug, and whether it was there; after `--` words mean themselves."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [word for word in arguments[:end] if word != DEBUG]
    return [*kept, *arguments[end:]], len(kept) < end


def _drop_stdout() -> None:
    """Let what is still in the buffer go nowhere, so that the interpreter's last flush is silent."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except io.UnsupportedOperation:  # stdout is no file
        sys.stdout = io.StringIO()
