"""Log-probabilities of tokens under the LM head, at the positions that are read and nowhere else.

Shapes: N sequences, T tokens, P positions, H features, V vocabulary, S states that are read, M tokens that are expected, C of
them in a chunk.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lmtailor.base.base import Base

LOGITS = 2**24
"""The most logits that are in memory at once (numbers)."""

LOGITS_WITH_GRADIENT = 2**22
"""The same where a gradient is taken, which needs as much again."""


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


def token_log_probabilities(base: Base, states_MH: Tensor, targets_M: Tensor) -> Tensor:
    """log p (M,) of a token for each state, in float32, with gradient where the states have one.

    No more logits than those of a chunk are in memory at any time. For the gradient, d log p / d state (M, H) is computed along
    with each chunk and kept instead of the logits; the work is the same. Where the LM head itself is trained, its gradient
    needs all logits (M, V), and they are kept.

    Args:
        base: its LM head is used.
        states_MH: the trunk's last states at the positions that are read.
        targets_M: the token ids that are expected there.
    """
    if not len(targets_M):
        return states_MH.new_zeros(0, dtype=torch.float32)
    if not torch.is_grad_enabled():
        return _in_chunks(base, states_MH, targets_M, LOGITS)
    if _head_is_trained(base, states_MH):
        return _log_p(base, states_MH, targets_M)
    log_p_M: Tensor = _FrozenHead.apply(states_MH, targets_M, base)  # type: ignore[no-untyped-call]
    return log_p_M


class _FrozenHead(Function):
    """log p of tokens under an LM head that is a constant."""

    @staticmethod
    def forward(ctx: Any, states_MH: Tensor, targets_M: Tensor, base: Base) -> Tensor:
        """Compute log p and its slopes, chunk by chunk."""
        if not ctx.needs_input_grad[0]:
            return _in_chunks(base, states_MH, targets_M, LOGITS)
        size = max(1, LOGITS_WITH_GRADIENT // base.vocab_size)
        log_p: list[Tensor] = []
        slopes: list[Tensor] = []
        for start in range(0, len(targets_M), size):
            own_CH = states_MH[start : start + size].detach().requires_grad_()
            own_C1 = targets_M[start : start + size, None]
            with torch.enable_grad():
                logits_CV = base.lm_logits(own_CH).float()
            out_CV = logits_CV.detach().log_softmax(1)
            log_p.append(out_CV.gather(1, own_C1)[:, 0])
            # d log p(target) / d logits = [target] - p, in the place of log p: a chunk has two tensors of its size.
            out_CV.exp_().neg_().scatter_add_(1, own_C1, torch.ones_like(out_CV[:, :1]))
            slopes += torch.autograd.grad(logits_CV, own_CH, out_CV)
            del logits_CV, out_CV
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(log_p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_M: Tensor) -> tuple[Tensor, None, None]:
        """The slopes, each times what comes down to its log p."""
        (slopes_MH,) = ctx.saved_tensors
        return (grad_M[:, None] * slopes_MH).to(slopes_MH.dtype), None, None


def _in_chunks(base: Base, states_MH: Tensor, targets_M: Tensor, most: int) -> Tensor:
    size = max(1, most // base.vocab_size)
    starts = range(0, len(targets_M), size)
    return torch.cat([_log_p(base, states_MH[i : i + size], targets_M[i : i + size]) for i in starts])


def _log_p(base: Base, states_CH: Tensor, targets_C: Tensor) -> Tensor:
    logits_CV = base.lm_logits(states_CH).float()
    return logits_CV.gather(1, targets_C[:, None])[:, 0] - logits_CV.logsumexp(1)


def _head_is_trained(base: Base, states_MH: Tensor) -> bool:
    """Whether logits have a gradient although the state has none."""
    return base.lm_logits(states_MH[:1].detach()).requires_grad
