"""From the states of a sequence to one vector.

Shapes: N sequences, T tokens, V virtual tokens before them, H features.
"""

from typing import Literal

import torch
from torch import Tensor

from lmtailor.core.errors import InputError
from lmtailor.readouts.batch import Batch
from lmtailor.readouts.readout import read_states, virtual_tokens

Pooled = Literal["cls", "mean", "last", "eos"]
"""cls: the first state. mean: the mean of all. last: the last. eos: that of the last end-of-sequence token."""


def read_positions(how: Pooled, ids: tuple[int, ...], eos: int | None) -> tuple[int, ...]:
    """The positions of a sequence that this pooling reads: one, or none for the mean, which reads all.

    Raises:
        InputError: "eos", and the sequence has no such token.
    """
    if how == "mean":
        return ()
    if how == "cls":
        return (0,)
    if how == "last":
        return (len(ids) - 1,)
    if eos not in ids:
        raise InputError(
            "The family's own head reads the state of the end-of-sequence token, and the tokenizer puts none after the text. "
            "Use pooling=last, or a tokenizer that adds one."
        )
    return (len(ids) - 1 - ids[::-1].index(eos),)


def pool(how: Pooled, states_NTH: Tensor, batch: Batch, *, virtual: bool = False) -> Tensor:
    """Pooled states (N, H) as float32.

    With `virtual`, the states may begin with V virtual tokens that are not in the batch: they are in the mean, and the
    first of them is what "cls" reads, as PEFT does it.
    """
    extra = virtual_tokens(states_NTH, batch, virtual)
    if how != "mean":
        return read_states(states_NTH, batch, 0 if how == "cls" else extra)[:, 0].float()
    mask_NT = torch.nn.functional.pad(batch.state_mask_NT, (extra, 0), value=1).bool()
    return states_NTH.float().masked_fill(~mask_NT[..., None], 0.0).sum(1) / mask_NT.sum(1, keepdim=True)
