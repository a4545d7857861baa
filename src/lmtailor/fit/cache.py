"""Hidden states of the training examples at one depth, in memory up to a bound and on disk beyond it.

Shapes: N sequences of a batch, T tokens, H features.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lmtailor.core.files import disk_error


class StateCache:
    """States of sequences of known lengths, written once each and read in any order."""

    def __init__(self, lengths: Sequence[int], width: int, dtype: torch.dtype, *, memory: int, folder: Path | None) -> None:
        """Make room.

        Args:
            lengths: tokens of each sequence.
            width: H.
            dtype: of the states.
            memory: bound on what is kept in memory (bytes); the rest goes to a file that is deleted with the cache.
            folder: where that file is made; None takes the system's folder for temporary files.

        Raises:
            InputError: no space on the disk.
        """
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._lengths = list(lengths)
        tokens, row = int(self._starts[-1]), width * dtype.itemsize
        self._split = min(tokens, memory // row)
        self._memory = torch.empty(self._split, width, dtype=dtype)
        self._disk: Tensor | None = None
        self.spilled = (tokens - self._split) * row
        """Bytes on disk."""
        if self.spilled:
            self._disk = _mapped(tokens - self._split, width, dtype, folder)

    def put(self, sequence: int, states_TH: Tensor) -> None:
        """Keep the states of one sequence."""
        start, end = self._span(sequence)
        middle = min(max(self._split, start), end)
        states = states_TH.to("cpu")
        self._memory[start:middle] = states[: middle - start]
        if self._disk is not None and middle < end:
            self._disk[middle - self._split : end - self._split] = states[middle - start :]

    def get(self, sequences: Sequence[int], width: int) -> Tensor:
        """States (N, width, H) of some sequences, zeros where they are shorter."""
        out = torch.zeros(len(sequences), width, self._memory.shape[1], dtype=self._memory.dtype)
        for row, sequence in enumerate(sequences):
            start, end = self._span(sequence)
            middle = min(max(self._split, start), end)
            out[row, : middle - start] = self._memory[start:middle]
            if self._disk is not None and middle < end:
                out[row, middle - start : end - start] = self._disk[middle - self._split : end - self._split]
        return out

    def rows(self, tokens: Tensor) -> Tensor:
        """States (P, H) of tokens by their numbers (P,), which count through all sequences."""
        if self._disk is None:
            return self._memory[tokens]
        out = torch.empty(len(tokens), self._memory.shape[1], dtype=self._memory.dtype)
        near = tokens < self._split
        out[near] = self._memory[tokens[near]]
        out[~near] = self._disk[tokens[~near] - self._split]
        return out

    def _span(self, sequence: int) -> tuple[int, int]:
        return int(self._starts[sequence]), int(self._starts[sequence + 1])


def needed_bytes(lengths: Sequence[int], width: int, dtype: torch.dtype) -> int:
    """What a cache of these sequences takes."""
    return sum(lengths) * width * dtype.itemsize


def _mapped(rows: int, width: int, dtype: torch.dtype, folder: Path | None) -> Tensor:
    """A tensor on a file without a name, which goes with the process whatever ends it."""
    size = rows * width * dtype.itemsize
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            os.posix_fallocate(stream.fileno(), 0, size)  # a full disk must show here, not as a crash while writing
            mapped = np.memmap(stream, dtype=np.uint8, mode="r+", shape=(size,))
    except OSError as error:
        raise disk_error(error, folder or Path(tempfile.gettempdir())) from error
    return torch.from_numpy(mapped).view(dtype).view(rows, width)
