"""Log-probabilities of tokens under the LM head, at the positions that are read and nowhere else.

Shapes: N sequences, T tokens, P positions, H features, V vocabulary, S states that are read, M tokens that are expected.
"""

import torch
from torch import Tensor

from lmtailor.base.base import Base

LOGITS = 2**24
"""The most logits that are in memory at once (numbers)."""


def log_probabilities(base: Base, states_NTH: Tensor, read_NP: Tensor, targets_NP: Tensor) -> Tensor:
    """log p of the expected tokens (N, P), in float32; 0 where none is expected.

    A state that is read for several tokens has its logits computed once.

    Args:
        base: its LM head is used.
        states_NTH: the trunk's last states.
        read_NP: the positions that are read.
        targets_NP: the token ids that are expected there, -1 where none is.
    """
    there_NP = targets_NP >= 0
    first_N1 = torch.arange(len(read_NP), device=read_NP.device)[:, None] * states_NTH.shape[1]
    spots_S, which_M = torch.unique((first_N1 + read_NP)[there_NP], return_inverse=True)
    order_M = which_M.argsort(stable=True)
    which_M, targets_M = which_M[order_M], targets_NP[there_NP][order_M]
    flat, parts = states_NTH.flatten(0, 1), []
    size = max(1, LOGITS // base.vocab_size)
    for start in range(0, len(spots_S), size):
        logits_SV = base.lm_logits(flat[spots_S[start : start + size]]).float()
        first, last = torch.searchsorted(which_M, torch.tensor([start, start + size], device=which_M.device)).tolist()
        own_M = which_M[first:last] - start
        parts.append(logits_SV[own_M, targets_M[first:last]] - logits_SV.logsumexp(1)[own_M])
    if not parts:
        return states_NTH.new_zeros(there_NP.shape, dtype=torch.float32)
    log_p_M = torch.cat(parts)[order_M.argsort()]
    return torch.zeros(there_NP.shape, device=log_p_M.device).masked_scatter(there_NP, log_p_M)
