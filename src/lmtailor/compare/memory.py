"""How much memory the process takes while something runs."""

import contextlib
import ctypes
import gc
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import psutil
import torch

PERIOD = 0.05
"""Seconds between two looks."""


class PeakMemory:
    """The largest resident memory of the process while the `with` block runs, by looking 20 times a second.

    That is all that the process holds in RAM: Python, libraries, the base and what the block takes. The system's own
    high-water mark would be exact, but it never falls, so a small run after a large one could not be told from it.
    On an accelerator, what PyTorch has taken there at most is measured as well.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)
        self.resident = 0
        """Bytes."""
        self.device = 0
        """Bytes on the accelerator; 0 on a CPU."""

    def __enter__(self) -> Self:
        give_back()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self.resident = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        if self._device.type == "cuda":
            self.device = torch.cuda.max_memory_allocated(self._device)

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD):
            self._look()

    def _look(self) -> None:
        self.resident = max(self.resident, self._process.memory_info().rss)


@contextlib.contextmanager
def quick_collection() -> Iterator[None]:
    """Leave out of collections what is there now, until the end of the block.

    PyTorch and its friends bring half a million objects that are never garbage; looking through them before every run would
    take longer than some runs.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def give_back() -> None:
    """Free what nobody holds any more, so that a run is not charged for the one before."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed memory otherwise
    except (AttributeError, OSError, TypeError):
        return  # another C library, which has no such call
