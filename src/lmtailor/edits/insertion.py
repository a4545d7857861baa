"""Virtual tokens in the midst of rows: around the gap that a masked model fills, or between a causal decoder's text and answer.

The gap goes from a row's first mask token to its last; a row without one has it behind its last token. Rows become longer by
as much as the longest insertion of the batch; what was put in is taken out of the output again. An encoder's rows are padded
on the right. A decoder's are padded on the left: what stands behind the insertion is then at the same place in every row, so
that tokens can be appended behind a cache, and no hole opens among the tokens that a window counts.

Shapes: B sequences, T tokens, M virtual tokens, L = T + the most that one row gets, H features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lmtailor.core.errors import UnsupportedError
from lmtailor.edits.kinds import Place

BESIDE: tuple[Place, Place] = ("before_gap", "after_gap")
"""The two places, in the order of the row."""


def gaps_in(ids_BT: Tensor | None, mask_BT: Tensor | None, mask_id: int | None) -> Tensor:
    """For each row the index of the gap's first token, and that of the first token behind it (B, 2).

    Raises:
        UnsupportedError: the rows are given as embeddings, in which no mask token can be found.
    """
    if ids_BT is None:
        raise UnsupportedError("Virtual tokens around the gap need input_ids: in inputs_embeds no mask token can be found.")
    if mask_BT is not None and mask_BT.ndim != 2:
        raise UnsupportedError("A prompt of tokens in every row needs a two-dimensional attention mask.")
    places_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    real_BT = torch.ones_like(ids_BT, dtype=torch.bool) if mask_BT is None else mask_BT.bool()
    is_gap_BT = real_BT & (ids_BT == (-1 if mask_id is None else mask_id))
    last_B = (real_BT * (places_T + 1)).amax(1)
    first_B = torch.where(is_gap_BT, places_T, ids_BT.shape[1]).amin(1)
    behind_B = (is_gap_BT * (places_T + 1)).amax(1)
    none_B = ~is_gap_BT.any(1)
    return torch.stack([torch.where(none_B, last_B, first_B), torch.where(none_B, last_B, behind_B)], 1)


@dataclass(frozen=True, kw_only=True)
class Insertion:
    """Where the tokens of one pass go."""

    own_BT: Tensor
    """For each token that was there its place in the longer row."""
    new_BM: Tensor
    """For each virtual token its place; L, behind the end, where a row has fewer."""
    read_BT: Tensor
    """For each token that was there the place of the state that is read as its own."""
    length: int
    """L."""

    @classmethod
    def between(cls, gaps_B: Tensor, counts_B: Tensor, tokens: int) -> "Insertion":
        """Put tokens before one place of every row. The state that predicts what follows there is the last new token's.

        Args:
            gaps_B: the index of the token before which they are put, 1 to T.
            counts_B: how many.
            tokens: T.
        """
        width = int(counts_B.amax())
        here_T, number_M = (torch.arange(size, device=gaps_B.device) for size in (tokens, width))
        gaps_B1, counts_B1 = gaps_B[:, None], counts_B[:, None]
        spare_B1 = width - counts_B1
        return cls(
            own_BT=here_T + torch.where(here_T >= gaps_B1, width, spare_B1),
            new_BM=torch.where(number_M < counts_B1, gaps_B1 + spare_B1 + number_M, tokens + width),
            read_BT=here_T + torch.where(here_T >= gaps_B1 - 1, width, spare_B1),
            length=tokens + width,
        )

    @classmethod
    def at(cls, gaps_B2: Tensor, counts_B2: Tensor, tokens: int) -> "Insertion":
        """Put tokens at two places of every row.

        Args:
            gaps_B2: the index of the token before which each of the two parts is put, the second not before the first.
            counts_B2: tokens of each part.
            tokens: T.
        """
        length = tokens + int(counts_B2.sum(1).amax())
        here_T = torch.arange(tokens, device=gaps_B2.device)
        behind_BT2 = here_T[None, :, None] >= gaps_B2[:, None]
        own_BT = here_T + (behind_BT2 * counts_B2[:, None]).sum(2)
        starts_B2 = torch.stack([gaps_B2[:, 0], gaps_B2[:, 1] + counts_B2[:, 0]], 1)
        new = []
        for part, width in enumerate(counts_B2.amax(0).tolist()):
            number_M = torch.arange(width, device=gaps_B2.device)
            there_BM = starts_B2[:, part, None] + number_M
            new.append(there_BM.masked_fill(number_M >= counts_B2[:, part, None], length))
        return cls(own_BT=own_BT, new_BM=torch.cat(new, 1), read_BT=own_BT, length=length)

    def joined(self, own_BTH: Tensor, new_BMH: Tensor) -> Tensor:
        """The longer rows (B, L, H), zero where they are padded."""
        out_BLH = own_BTH.new_zeros(own_BTH.shape[0], self.length + 1, own_BTH.shape[2])
        out_BLH = out_BLH.scatter(1, _wide(self.own_BT, own_BTH), own_BTH)
        return out_BLH.scatter(1, _wide(self.new_BM, new_BMH), new_BMH)[:, :-1]

    def marked(self, own_BT: Tensor, new: int) -> Tensor:
        """A mask or segments of the longer rows (B, L): `new` at virtual tokens, 0 where they are padded."""
        new_BM = torch.full(self.new_BM.shape, new, dtype=own_BT.dtype, device=own_BT.device)
        return self.joined(own_BT[..., None], new_BM[..., None])[..., 0]

    def without(self, mask_BL: Tensor, front: int = 0) -> Tensor:
        """A mask of the longer rows, behind `front` tokens before them, in which the virtual tokens are 0."""
        own_BL = F.pad(mask_BL[:, front:], (0, 1)).scatter(1, self.new_BM, 0)[:, :-1]
        return torch.cat([mask_BL[:, :front], own_BL], 1)

    def taken(self, state_BLH: Tensor, front: int = 0) -> Tensor:
        """The states without the virtual tokens, behind the `front` ones that stand before the rows."""
        own_BTH = state_BLH[:, front:].gather(1, _wide(self.read_BT, state_BLH))
        return torch.cat([state_BLH[:, :front], own_BTH], 1) if front else own_BTH


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, like.shape[-1])
