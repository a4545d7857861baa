"""What an ensemble of patterns says of unlabelled texts, and which of them the next generation of models learns from.

Schick & Schütze 2021, arXiv:2001.07676, sections 3.3 and 3.4.

Shapes: N texts, C labels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

FIRST = 10
"""Examples of the first generation in all, where there are no labelled ones (section 3.4)."""
SUREST = 100
"""Texts, for each label those with its highest probability, that these examples are drawn from."""

Draw = Literal["weighted", "surest"]
"""How texts of a label are chosen: at random in proportion to their probability, as in the paper, or the most probable ones."""


def combined(scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """s(l | x) = Σ_p w(p) s_p(l | x) / Σ_p w(p): the ensemble's scores (N, C), in float64.

    Args:
        scores: (N, C) of each model.
        weights: of each model; where all are 0 they count as equal.
    """
    w = torch.tensor(list(weights), dtype=torch.float64)
    w = w if float(w.sum()) > 0 else torch.ones_like(w)
    return torch.einsum("m,mnc->nc", w / w.sum(), torch.stack([own.double() for own in scores]))


def labellers(models: int, own: int, share: float, rng: Generator) -> list[int]:
    """Which of the other models label the texts for one: λ · (n − 1) of them, rounded, at least one.

    Args:
        models: n.
        own: number of the model that is to learn; it is never among them.
        share: λ.
        rng: draws.
    """
    others = [number for number in range(models) if number != own]
    count = max(1, round(share * len(others)))
    return sorted(others[i] for i in torch.randperm(len(others), generator=rng)[:count].tolist())


def quotas(counts: Sequence[int], generation: int, growth: int) -> list[int]:
    """How many texts of each label are added to the labelled examples: c_j(l) − c_0(l), with c_j(l) = d · c_{j−1}(l).

    Args:
        counts: c_0, labelled examples of each label. Where there are none at all, c_1(l) is an equal share of `FIRST`.
        generation: j, from 1.
        growth: d.
    """
    if not any(counts):
        return [max(1, FIRST // len(counts)) * growth ** (generation - 1)] * len(counts)
    return [count * growth**generation - count for count in counts]


def chosen(scores_NC: Tensor, wanted: Sequence[int], draw: Draw, rng: Generator, *, first: bool = False) -> list[tuple[int, int]]:
    """Texts with the labels that an ensemble gives them: pairs of text and label, by text.

    Of each label those are candidates to which the ensemble gives it; all of them are taken where they are too few. A text is
    drawn with a probability in proportion to the label's, without being put back: texts of which the ensemble is sure are right
    more often.

    Args:
        scores_NC: the ensemble's.
        wanted: texts of each label.
        draw: how to choose among the candidates.
        rng: draws.
        first: whether no model has seen a label yet. Then the candidates of a label are the `SUREST` texts with its highest
            probability, whatever the ensemble answers, since it may never answer some label; no text is taken twice.
    """
    log_q_NC = scores_NC.double().log_softmax(1)
    answers_N = log_q_NC.argmax(1)
    taken: dict[int, int] = {}
    for label, count in enumerate(wanted):
        log_q_N = log_q_NC[:, label]
        pool = log_q_N.argsort(descending=True, stable=True).tolist()
        pool = [i for i in pool[:SUREST] if i not in taken] if first else [i for i in pool if int(answers_N[i]) == label]
        keys = log_q_N[pool]
        if draw == "weighted":
            # The largest log q + Gumbel noise first is a draw in proportion to q, one after the other.
            uniform = torch.rand(len(pool), generator=rng, dtype=torch.float64).clamp(min=1e-300)
            keys = keys - (-uniform.log()).log()
        best = keys.argsort(descending=True, stable=True)[:count].tolist()
        taken |= {pool[i]: label for i in best}
    return sorted(taken.items())
