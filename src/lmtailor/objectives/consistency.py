"""Consistency of two passes: the same example under two draws of chance should be answered alike.

Shapes: B examples, C labels.
"""

from torch import Tensor
from torch.nn import functional as F

from lmtailor.tasks.example import TaskKind


def consistency(first_BC: Tensor, second_BC: Tensor, kind: TaskKind) -> Tensor:
    """½ (KL(p‖q) + KL(q‖p)) of each example (B,), with p and q the softmax of the scores (Wang et al. 2022, AdaMix, section 3.2).

    In regression, where there is no distribution, the squared difference.
    """
    if kind == "regression":
        return (first_BC[:, 0] - second_BC[:, 0]).square()
    log_p, log_q = F.log_softmax(first_BC, -1), F.log_softmax(second_BC, -1)
    # KL(p‖q) + KL(q‖p) = Σ (p − q)(log p − log q)
    return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)
