"""Pearson and Spearman correlation of numbers, for many weightings of the examples at once.

Legend as in `classification`. Values agree with SciPy's. Where one side does not vary (to within rounding), SciPy gives no
number; here the correlation is 0: such predictions tell nothing.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_FLAT = 1e-12
"""A spread below this share of the values' size is rounding."""


def pearson(weights_BN: Floats, predicted_N: Floats, reference_N: Floats) -> Floats:
    """Linear correlation (B,)."""
    x_N, y_N = _centred(predicted_N), _centred(reference_N)
    n_B = weights_BN.sum(axis=1)
    sums_B5 = weights_BN @ np.stack([x_N, y_N, x_N * x_N, y_N * y_N, x_N * y_N], axis=1)
    x_B, y_B, xx_B, yy_B, xy_B = sums_B5.T
    spread_x, spread_y = xx_B - x_B**2 / n_B, yy_B - y_B**2 / n_B
    varies = (spread_x > _FLAT * xx_B) & (spread_y > _FLAT * yy_B)
    return _ratio(xy_B - x_B * y_B / n_B, spread_x, spread_y, varies)


def spearman(weights_BN: Floats, predicted_N: Floats, reference_N: Floats) -> Floats:
    """Correlation of ranks, ties at their mean rank (B,). Every weighting ranks anew."""
    x_BN, y_BN = _ranks(weights_BN, predicted_N), _ranks(weights_BN, reference_N)
    middle_B1 = (weights_BN.sum(axis=1, keepdims=True) + 1) / 2  # the mean of all ranks, whatever the ties
    x_BN -= middle_B1
    y_BN -= middle_B1
    covariance, spread_x, spread_y = (
        np.einsum("bn,bn,bn->b", weights_BN, *pair) for pair in ((x_BN, y_BN), (x_BN, x_BN), (y_BN, y_BN))
    )
    return _ratio(covariance, spread_x, spread_y, (spread_x > 0) & (spread_y > 0))


def _ratio(covariance: Floats, spread_x: Floats, spread_y: Floats, varies: NDArray[np.bool_]) -> Floats:
    scale = np.sqrt(np.where(varies, spread_x, 1.0)) * np.sqrt(np.where(varies, spread_y, 1.0))
    return np.clip(np.where(varies, covariance / scale, 0.0), -1.0, 1.0)


def _centred(x_N: Floats) -> Floats:
    """The values around their mean, scaled to at most 1; all zero where they do not vary."""
    flat = np.ptp(x_N) <= _FLAT * np.abs(x_N).max()
    centred_N = x_N - x_N.mean()
    return np.zeros_like(x_N) if flat else centred_N / np.abs(centred_N).max()


def _ranks(weights_BN: Floats, x_N: Floats) -> Floats:
    """The rank from 1 of each example among the weighted ones (B, N)."""
    order_N = np.argsort(x_N, kind="stable")
    _, starts_G, inverse_N = np.unique(x_N[order_N], return_index=True, return_inverse=True)
    counts_BG = np.add.reduceat(weights_BN[:, order_N], starts_G, axis=1)
    ranks_BG = np.cumsum(counts_BG, axis=1) - (counts_BG - 1) / 2
    group_N = np.empty_like(order_N)
    group_N[order_N] = inverse_N
    return ranks_BG[:, group_N]
