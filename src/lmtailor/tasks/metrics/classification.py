"""Accuracy, F1, macro-F1 and Matthews correlation of label indices, for many weightings of the examples at once.

Legend: B weightings, N examples, C labels. `weights_BN` says how often each example counts; ones give the plain value,
counts of a bootstrap sample give the value on that sample. All of them depend only on three numbers a label: how often
it was predicted rightly, predicted, and given in the reference. Values agree with scikit-learn's.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def accuracy(weights_BN: Floats, predicted_N: Floats, reference_N: Floats) -> Floats:
    """Share of examples whose label is right (B,)."""
    right_N = (predicted_N == reference_N).astype(np.float64)
    values: Floats = weights_BN @ right_N / weights_BN.sum(axis=1)
    return values


def f1(weights_BN: Floats, predicted_N: Floats, reference_N: Floats) -> Floats:
    """F1 = 2 · right / (predicted + reference) of the second of two labels (B,); 0 where it is nowhere, as in scikit-learn.

    GLUE's for MRPC and QQP, and F1a of MultiRC, whose second label is "the same" or "right".
    """
    said_N, true_N = (predicted_N == 1).astype(np.float64), (reference_N == 1).astype(np.float64)
    right_B, total_B = weights_BN @ (said_N * true_N), weights_BN @ (said_N + true_N)
    values: Floats = np.divide(2 * right_B, total_B, out=np.zeros_like(total_B), where=total_B > 0)
    return values


def macro_f1(weights_BN: Floats, predicted_N: Floats, reference_N: Floats) -> Floats:
    """Mean over labels of F1 = 2 · right / (predicted + reference) (B,).

    A label that is neither predicted nor in the reference has no F1 and does not count, as in scikit-learn's default.
    """
    right_BC, predicted_BC, reference_BC = _counts(weights_BN, predicted_N, reference_N)
    total_BC = predicted_BC + reference_BC
    present_BC = total_BC > 0
    f1_BC = np.divide(2 * right_BC, total_BC, out=np.zeros_like(total_BC), where=present_BC)
    values: Floats = f1_BC.sum(axis=1) / present_BC.sum(axis=1)
    return values


def matthews(weights_BN: Floats, predicted_N: Floats, reference_N: Floats) -> Floats:
    """Matthews correlation for any number of labels (B,). Gorodkin 2004, equation 8.

    Where only one label is predicted, or only one is in the reference, it is defined as 0: nothing is told apart.
    """
    right_BC, predicted_BC, reference_BC = _counts(weights_BN, predicted_N, reference_N)
    n_B = weights_BN.sum(axis=1)
    both = n_B * right_BC.sum(axis=1) - (predicted_BC * reference_BC).sum(axis=1)
    spread = (n_B**2 - (predicted_BC**2).sum(axis=1)) * (n_B**2 - (reference_BC**2).sum(axis=1))
    values: Floats = np.divide(both, np.sqrt(spread), out=np.zeros_like(both), where=spread > 0)
    return values


def _counts(weights_BN: Floats, predicted_N: Floats, reference_N: Floats) -> tuple[Floats, Floats, Floats]:
    """For each label how often it was predicted rightly, predicted, and in the reference, each (B, C)."""
    labels_C = np.union1d(predicted_N, reference_N)
    predicted_NC = (predicted_N[:, None] == labels_C).astype(np.float64)
    reference_NC = (reference_N[:, None] == labels_C).astype(np.float64)
    return weights_BN @ (predicted_NC * reference_NC), weights_BN @ predicted_NC, weights_BN @ reference_NC
