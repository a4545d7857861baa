"""How an error ends a run: an exit code, and one line for people."""

import errno

from cyclopts import CycloptsError, MissingArgumentError, UnusedCliTokensError

from lmtailor.core.errors import InputError, LMTailorError, TrainingError

DEFECT = 1
MENDABLE = 2
INTERRUPTED = MENDABLE
"""The same command goes on, or begins again."""
BROKEN_PIPE = 141
"""As shells count the signal SIGPIPE."""

_OUT_OF_MEMORY = ("OutOfMemoryError", "DefaultCPUAllocator", "out of memory")
"""What stands in torch's own errors; they have no type that could be named without loading torch."""


def ending(error: BaseException) -> tuple[int, str]:
    """The exit code and the line."""
    if isinstance(error, CycloptsError):
        return MENDABLE, _usage(error)
    if isinstance(error, InputError | TrainingError):
        return MENDABLE, str(error)
    if isinstance(error, LMTailorError):
        return DEFECT, str(error)
    if isinstance(error, OSError):
        return MENDABLE, _system(error)
    if isinstance(error, MemoryError) or any(word in f"{type(error).__name__}: {error}" for word in _OUT_OF_MEMORY):
        return MENDABLE, (
            "Out of memory. Take a smaller --batch-size, a smaller base or --dtype bfloat16, or for a fit "
            "--set training.checkpointing=true."
        )
    first = next(iter(str(error).splitlines()), "")
    return DEFECT, f"{type(error).__name__}: {first} (a defect of lmtailor; --debug shows where)"


def _usage(error: CycloptsError) -> str:
    error.verbose = False
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"Unexpected: {' '.join(error.unused_tokens)}. {_help(error)}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return f"{error.argument.name} is missing. {_help(error)}"
    return str(error)


def _help(error: CycloptsError) -> str:
    """Where the usage is told."""
    return f"See lmtailor {' '.join([*(error.command_chain or ()), '--help'])}."


def _system(error: OSError) -> str:
    """What the operating system refused, and where."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"No space left on the disk{_at(error)}. Free some space and run again."
    return f"{error.strerror or error}{_at(error)}."


def _at(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""
