"""Contextual calibration: a prompted model's bias towards labels, measured on inputs without content and divided out.

    p_cf = mean over content-free inputs of the labels' probabilities,  W = diag(p_cf)⁻¹,  b = 0,  q ∝ W p

Zhao et al. 2021, arXiv:2102.09690, section 5. p are the labels' probabilities, normalised over the labels: the softmax of
their scores. So q's scores are the scores minus log p_cf. (The paper takes a softmax of W p, which changes no answer, only
how far apart the probabilities are; here q is W p made to sum to 1.) For words of several tokens, for masked models and for
encoder-decoders p is made of their scores in the same way.
"""

from dataclasses import dataclass, replace

from lmtailor.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What stands in for an input without content."""

    inputs: tuple[str, ...] = ("N/A", "", "[MASK]")
    """Texts without content (the paper's three). In each, every column of the pattern has this text."""
    shares: tuple[tuple[float, ...], ...] | None = None
    """p_cf as it was measured, a row for each set of demonstrations, a number a label; None: not yet. Measuring stores it."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise InputError('Calibration needs at least one content-free text, such as "N/A".')
        if len(set(self.inputs)) < len(self.inputs):
            raise InputError(f"The content-free texts {list(self.inputs)} are to be averaged: name each once.")
        for row in self.shares or ():
            if not all(0 < share <= 1 for share in row):
                raise InputError(f"Shares of labels are above 0 and at most 1; found {list(row)}.")

    def of_set(self, number: int) -> "Calibration":
        """That of one set of demonstrations."""
        return self if self.shares is None else replace(self, shares=(self.shares[number],))
