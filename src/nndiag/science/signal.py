"""How a signal fares with depth: gain per layer, dead units, and how much of the input is left.

He et al. 2015 (arXiv 1502.01852) eq. 10 and 14; Glorot & Bengio 2010 eq. 16; Poole et al. 2016 (arXiv 1606.05340) for
the cosine map. q is a second moment E z^2; (samples, features) throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RELU_HALF = 0.5  # E relu(z)^2 = q/2 and E relu'(z)^2 = 1/2 for symmetric z


@dataclass(frozen=True, slots=True)
class Gain:
    """What theory expects of one affine layer followed by ReLU, per second moment. 1 keeps the signal."""

    forward: float
    backward: float


def relu_gain(weight_second_moment: float, fan_in: int, fan_out: int) -> Gain:
    """Expected gain of an affine layer between ReLUs: fan * E w^2 / 2 (He et al. 2015, eq. 10 and 14).

    Example:
        >>> he = relu_gain(2 / 256, 256, 256)
        >>> he.forward, he.backward
        (1.0, 1.0)
        >>> round(relu_gain(1 / (3 * 256), 256, 256).forward, 4)  # torch's default Linear: a sixth
        0.1667
    """
    return Gain(forward=fan_in * weight_second_moment * RELU_HALF, backward=fan_out * weight_second_moment * RELU_HALF)


def second_moment(values: NDArray[np.floating]) -> float:
    """E z^2 over everything, in float64; NaN when there is nothing."""
    wide = np.asarray(values, dtype=np.float64)
    return float(np.mean(np.square(wide))) if wide.size else math.nan


def between_share(samples: NDArray[np.floating]) -> float:
    """Share of the second moment that differs between inputs: sum_j Var_i(h_ij) / sum_j E_i h_ij^2.

    1 - mean cosine for rows of equal length, so 0 means that every input has the same representation. Unlike the raw
    cosine it does not saturate in float printing, and pooled ReLU features of healthy nets (cosine .98-.99) stand at
    .01-.02.

    Args:
        samples: (samples, features), one row per input.

    Returns:
        Between 0 and 1; NaN for fewer than two inputs or an all-zero representation.

    Example:
        >>> between_share(np.array([[1.0, 0.0], [0.0, 1.0]]))
        0.5
    """
    wide = np.asarray(samples, dtype=np.float64)
    if wide.ndim != 2 or wide.shape[0] < 2:
        return math.nan
    total = float(np.mean(np.square(wide), axis=0).sum())
    if total == 0.0 or not math.isfinite(total):
        return math.nan
    return float(np.var(wide, axis=0).sum()) / total


def participation(samples: NDArray[np.floating]) -> float:
    """Number of directions in which samples differ: (sum l)^2 / sum l^2 over the variances l; 0 where none differs.

    Example:
        >>> participation(np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]))
        1.0
    """
    wide = np.asarray(samples, dtype=np.float64)
    centred = wide - wide.mean(axis=0)
    gram = centred @ centred.T if len(wide) <= wide.shape[1] else centred.T @ centred
    square = float(np.einsum("ij,ij->", gram, gram))
    return float(np.trace(gram) ** 2 / square) if square > 0 else 0.0


def mean_cosine(samples: NDArray[np.floating]) -> float:
    """Mean cosine over all pairs of different inputs; NaN where it is not defined.

    Uses sum_{i != j} u_i.u_j = |sum u|^2 - n for unit vectors: linear in the number of samples.
    """
    wide = np.asarray(samples, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=1)
    wide = wide[norms > 0] / norms[norms > 0, None]
    count = wide.shape[0]
    if count < 2 or not np.isfinite(wide).all():
        return math.nan
    total = wide.sum(axis=0)
    return float((total @ total - count) / (count * (count - 1)))


def relu_cosine_map(cosine: float, layers: int = 1) -> float:
    """Cosine of two inputs after `layers` He-initialised ReLU layers without bias (Cho & Saul 2009, degree 1).

    c' = (sqrt(1 - c^2) + c (pi - arccos c)) / pi, whose fixed point is 1: depth makes inputs alike.

    Example:
        >>> round(relu_cosine_map(0.0, 10), 3)
        0.872
    """
    for _ in range(layers):
        bounded = min(1.0, max(-1.0, cosine))
        cosine = (math.sqrt(1 - bounded * bounded) + bounded * (math.pi - math.acos(bounded))) / math.pi
    return cosine


def relu_dead_share(mean_over_sd: float, samples: int) -> float:
    """Expected share of ReLU units that stay 0 on all of `samples` inputs with entries of this mean / sd.

    A unit's pre-activation has mean N(0, q c) over units and sd sqrt(q (1 - c)) over inputs, c = m^2 / (m^2 + s^2): it
    is quiet where its mean lies further below zero than the largest of n standard normals.
    """
    if mean_over_sd == 0:
        return 0.5**samples
    from scipy import special  # late: it takes a fifth of a second

    grid = np.linspace(-8, 8, 4001)
    quiet = special.log_ndtr(-mean_over_sd * grid) * samples
    weight = np.exp(-0.5 * np.square(grid))
    return float(np.sum(np.exp(quiet) * weight) / np.sum(weight))


def share_interval(count: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share (exact, so right for 0 of n too)."""
    if total == 0:
        return (0.0, 1.0)
    from scipy import special  # late, likewise

    tail = (1 - confidence) / 2
    low = float(special.betaincinv(count, total - count + 1, tail)) if count else 0.0
    high = float(special.betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    return (low, high)


def excess_interval(count: int, other: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the difference of two exclusive shares, count/total - other/total.

    The two are counts of one multinomial, so the variance is p + q - (p - q)², not that of one share: where a coin
    decides, as many fall on either side, give or take the root of their number. Half a count more on each side keeps
    the interval honest for small totals (Agresti & Min 2005).
    """
    if total == 0:
        return (-1.0, 1.0)
    from scipy import special  # late, likewise

    size = total + 2
    p, q = (count + 0.5) / size, (other + 0.5) / size
    half = -float(special.ndtri((1 - confidence) / 2)) * float(np.sqrt((p + q - (p - q) ** 2) / size))
    return (max(-1.0, p - q - half), min(1.0, p - q + half))


def stable_rank(matrix: NDArray[np.floating], iterations: int = 12) -> float:
    """||W||_F^2 / ||W||_2^2, between 1 and the rank; 0 for a zero matrix (Rudelson & Vershynin 2007).

    The spectral norm comes from power iteration, which approaches from below: the result is never too small.
    """
    wide = np.asarray(matrix, dtype=np.float64)
    square = float(np.einsum("ij,ij->", wide, wide))
    if square == 0.0 or not np.isfinite(square):
        return 0.0
    v: NDArray[np.float64] = np.asarray(np.random.default_rng(22).standard_normal(wide.shape[1]))
    top = 0.0
    for _ in range(iterations):
        v = np.asarray(wide.T @ (wide @ v))
        length = float(np.linalg.norm(v))
        if length == 0.0:
            return 0.0
        v /= length
        top = np.linalg.norm(wide @ v).item() ** 2
    return float(square / top)
