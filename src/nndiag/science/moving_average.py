"""How much of its start does a moving average still hold, told from the average alone?

Axis names: channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nndiag.science.moments import Array

MISSED = 0.1  # share of the way from the start that may lie beside the line
RIVAL = 4.0  # times better than inputs on another scale, which also move mean and variance together
CHANNELS = 4  # whose means and variances are as many independent tests of one number


def start_left(mean: Array, var: Array, true_mean: Array, true_var: Array) -> float | None:
    """Return the weight w of the start (0, 1) in running statistics, where these lie on the line that an average walks.

    After k updates of weight a, mean = (1 - w) m and var = w + (1 - w) v with w = (1 - a)^k, for every channel and both
    moments (Ioffe & Szegedy 2015, alg. 2, unrolled). One number thus has to explain 2 x channels values, in units of
    each channel's own spread; statistics of the same data on another scale (c m, c² v) must explain them far worse.

    Args:
        mean: Running means, (channels,).
        var: Running variances, (channels,).
        true_mean: Of the batches, (channels,).
        true_var: Of the batches, (channels,), above zero.

    Returns:
        w between 0 and 1; None where the numbers do not lie on the line, or do not tell.
    """
    if len(mean) < CHANNELS or not (true_var > 0).all():
        return None
    sd = np.sqrt(true_var)
    way = np.concatenate([true_mean / sd, (true_var - 1) / true_var])  # from the start to the data
    gone = np.concatenate([mean / sd, (var - 1) / true_var])  # from the start to what is remembered
    length, walked = float(way @ way), float(gone @ gone)
    if length == 0 or walked == 0:
        return None
    share = float(gone @ way) / length
    missed = float(((gone - share * way) ** 2).sum())
    if not 0 < share < 1 or missed > MISSED * walked:
        return None
    other = _scaled_misfit(mean / sd, var / true_var, true_mean / sd)
    return 1 - share if RIVAL * missed + 1e-6 * walked < other else None


def _scaled_misfit(mean: Array, var: Array, true_mean: Array) -> float:
    """Least squares left by statistics of the same data times c, over c; all in units of the data's spread."""
    slope = [4.0 * len(var), 0.0, 2 * float(true_mean @ true_mean) - 4 * float(var.sum()), -2 * float(mean @ true_mean)]
    factors = np.roots(slope)
    c = factors[abs(factors.imag) < 1e-9 * (1 + abs(factors))].real[:, None]  # (stationary points, 1)
    return float((((mean - c * true_mean) ** 2).sum(axis=1) + ((var - c**2) ** 2).sum(axis=1)).min())
