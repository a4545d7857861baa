"""From the states that predict label words to one score a word, and from words to labels.

Shapes: B examples, W label words, K runs an example, N = B · K sequences, P positions, C labels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.readouts.batch import Batch
from lmtailor.readouts.likelihood import log_probabilities
from lmtailor.readouts.readout import read_states
from lmtailor.readouts.runs import Run
from lmtailor.readouts.words import LabelWord

Aggregate = Literal["mean", "max", "sum"]
Normalise = Literal["none", "length", "bytes", "pmi"]


def one_token(base: Base, states: States, batch: Batch, words: Sequence[LabelWord], *, normalised: bool) -> Tensor:
    """The logits of words of one token (B, W), or their log-probabilities, for which the whole vocabulary is asked."""
    words_W = torch.tensor([word.pieces[0] for word in words], device=states.last_NTH.device)
    read_BH = read_states(states.last_NTH, batch)[:, 0]
    if normalised:
        return base.lm_logits(read_BH).float().log_softmax(1)[:, words_W]
    return base.lm_logits(read_BH, words_W).float()


def many_tokens(base: Base, states: States, batch: Batch, words: Sequence[LabelWord], runs: Sequence[Run]) -> Tensor:
    """The words' log-probabilities (B, W), the sums over their tokens."""
    log_p_NP = log_probabilities(base, states.last_NTH, batch.read_NP, batch.targets_NP)
    log_p_BKP = log_p_NP.view(-1, batch.per_row, log_p_NP.shape[1])
    columns: dict[int, Tensor] = {}
    for k, run in enumerate(runs):
        counts = [len(words[i].pieces) for i in run.words]
        parts = torch.split(log_p_BKP[:, k, : sum(counts)], counts, dim=1)
        columns |= {i: part.sum(1) for i, part in zip(run.words, parts, strict=True)}
    return torch.stack([columns[i] for i in range(len(words))], dim=1)


def normalised_by(how: Normalise, scores_BW: Tensor, words: Sequence[LabelWord], prior: Sequence[float] | None) -> Tensor:
    """Words' scores (B, W) with what they owe to their length, or to their being common, taken out.

    Args:
        how: none; length: divided by the word's tokens; bytes: by its bytes in UTF-8, without the space before it; pmi: less
            its score behind the domain premise.
        scores_BW: log-probabilities, or for none, length of one token, and pmi logits.
        words: the label words.
        prior: for pmi, their scores behind the premise.
    """
    if how == "length":
        return scores_BW / scores_BW.new_tensor([len(word.pieces) for word in words])
    if how == "bytes":
        return scores_BW / scores_BW.new_tensor([len(word.word.encode()) for word in words])
    if how == "pmi":
        assert prior is not None, "the caller has seen to it"
        return scores_BW - scores_BW.new_tensor(prior)
    return scores_BW


def aggregated(scores_BW: Tensor, words: Sequence[LabelWord], labels: int, how: Aggregate) -> Tensor:
    """The labels' scores (B, C): of their words the mean, the largest, or the score of the sum of their probabilities."""
    columns = []
    for label in range(labels):
        own = scores_BW[:, [i for i, word in enumerate(words) if word.label == label]]
        if how == "mean":
            columns.append(own.mean(1))
        else:
            columns.append(own.amax(1) if how == "max" else own.logsumexp(1))
    return torch.stack(columns, dim=1)
