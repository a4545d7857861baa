"""From the states that predict label words to one score a word, and from words to labels.

Shapes: B examples, W label words, K runs an example, N = B · K sequences, P positions, C labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lmtailor.base.base import Base
from lmtailor.base.states import States
from lmtailor.core.errors import StateError
from lmtailor.readouts.batch import Batch
from lmtailor.readouts.likelihood import log_probabilities
from lmtailor.readouts.readout import read_states
from lmtailor.readouts.runs import Run
from lmtailor.readouts.words import LabelWord

Aggregate = Literal["mean", "max", "sum"]
Normalise = Literal["none", "length", "bytes", "pmi"]

PREMISE = ""
"""normalise=pmi: the text in every column of the domain premise."""


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


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """From words' scores to labels' scores: normalised, aggregated, calibrated."""

    words: tuple[LabelWord, ...]
    labels: int
    """C."""
    aggregate: Aggregate = "mean"
    """Of several words of a label: the mean of their scores, the largest, or the score of the sum of their probabilities."""
    normalise: Normalise = "none"
    """length: divided by the word's tokens; bytes: by its bytes in UTF-8, without the space before it; pmi: less the prior."""
    prior: tuple[float, ...] | None = None
    """pmi: the words' scores behind the domain premise; None: not measured."""
    calibrates: bool = False
    """Whether log p_cf is subtracted."""
    shares: tuple[float, ...] | None = None
    """p_cf; None: not measured."""

    @property
    def single(self) -> bool:
        """Whether the logit of one token is enough for every word: it has one, and is not divided by its length."""
        return all(len(word.pieces) == 1 for word in self.words) and self.normalise != "bytes"

    def uncalibrated(self, scores_BW: Tensor) -> Tensor:
        """The labels' scores (B, C) of the words'.

        Raises:
            StateError: the prior was not measured.
        """
        own_BW = self._normalised(scores_BW)
        columns = []
        for label in range(self.labels):
            own = own_BW[:, [i for i, word in enumerate(self.words) if word.label == label]]
            if self.aggregate == "mean":
                columns.append(own.mean(1))
            else:
                columns.append(own.amax(1) if self.aggregate == "max" else own.logsumexp(1))
        return torch.stack(columns, dim=1)

    def label_scores(self, scores_BW: Tensor) -> Tensor:
        """The labels' scores (B, C) of the words', calibrated where asked.

        Raises:
            StateError: the prior or p_cf was not measured.
        """
        scores_BC = self.uncalibrated(scores_BW)
        if not self.calibrates:
            return scores_BC
        if self.shares is None:
            raise _not_measured("The labels' probabilities on content-free inputs (calibration)")
        return scores_BC - torch.tensor(self.shares, dtype=torch.float64).log().to(scores_BC)

    def _normalised(self, scores_BW: Tensor) -> Tensor:
        if self.normalise == "length":
            return scores_BW / scores_BW.new_tensor([len(word.pieces) for word in self.words])
        if self.normalise == "bytes":
            return scores_BW / scores_BW.new_tensor([len(word.word.encode()) for word in self.words])
        if self.normalise == "none":
            return scores_BW
        if self.prior is None:
            raise _not_measured("The words' scores behind the domain premise (normalise=pmi)")
        return scores_BW - scores_BW.new_tensor(self.prior)


def _not_measured(what: str) -> StateError:
    return StateError(
        f"{what} have not been measured, so there are no scores. Give the adapter to lmtailor.infer.calibrate.measured first; "
        "evaluate and plain_adapter do it."
    )
