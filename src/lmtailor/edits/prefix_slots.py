"""Keys and values that stand before the sequences' own, for the rows of a batch.

Shapes: S prefixes, R rows, K heads of keys and values, N slots, D features of a head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lmtailor.edits.gate import Gate


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    """The prefixes of one layer, padded on the left to a common length."""

    keys_SKND: Tensor
    values_SKND: Tensor
    lengths: tuple[int, ...]
    """Tokens of each prefix."""
    slot_of_row: tuple[int, ...]
    """For each row its prefix, or -1."""
    gate: Gate | None = None
    late_SN: Tensor | None = None
    """Which slots stand between text and answer; None where none does."""

    places_SN: Tensor | None = None
    """Where slots stand, as windows count; None where each stands behind the one before it, the first at 0."""

    def visible_RN(self) -> Tensor:
        """Which slots are real for each row."""
        width = self.keys_SKND.shape[2]
        return torch.arange(width, device=self.keys_SKND.device)[None] >= width - self.counts_R()[:, None]

    def counts_R(self) -> Tensor:
        """How many slots are real for each row."""
        counts = [self.lengths[slot] if slot >= 0 else 0 for slot in self.slot_of_row]
        return torch.tensor(counts, device=self.keys_SKND.device)

    def places_RN(self) -> Tensor:
        """Where each row's slots stand; without meaning where they are not real."""
        if self.places_SN is not None:
            return self.places_SN[torch.tensor(self.slot_of_row, device=self.places_SN.device).clamp_min(0)]
        width = self.keys_SKND.shape[2]
        return torch.arange(width, device=self.keys_SKND.device)[None] - (width - self.counts_R())[:, None]
