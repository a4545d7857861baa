"""Silence while transformers loads: it reports keys and draws bars, where we raise errors that say what to do."""

import contextlib
import io
from collections.abc import Iterator

from transformers.utils import logging


@contextlib.contextmanager
def quiet(*, stderr: bool = False) -> Iterator[None]:
    """Neither log lines below errors nor progress bars from transformers; all is as before afterwards.

    Args:
        stderr: also swallow what goes to standard error, for the bar of GGUF files, which heeds no setting.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with contextlib.redirect_stderr(io.StringIO()) if stderr else contextlib.nullcontext():
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
