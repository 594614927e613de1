"""Floors that an architecture imposes: the least cross-entropy when logits cannot leave a bounded set.

They look like entropy floors and are bugs: probabilities fed to a loss that takes logits, tanh or cosine outputs
without a scale. For hard labels they are closed forms; for soft rows they are small convex problems.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

DOUBLE_SOFTMAX = "double softmax"
SIGMOID = "sigmoid before the loss"
TANH = "tanh on the logits"
COSINE = "cosine logits without a scale"


def bounded_floor(classes: int, gap: float) -> float:
    """Return the least hard-label loss when the right logit can lead the others by at most `gap`.

    ln(1 + (C-1) e^-gap): gap 1 for probabilities taken for logits, 2 for tanh, C/(C-1) for unit vectors at the
    corners of a simplex (the widest spread that C unit vectors have).

    Example:
        >>> round(bounded_floor(10, 1.0), 4), round(bounded_floor(10, 2.0), 4), round(bounded_floor(10, 10 / 9), 4)
        (1.4612, 0.7966, 1.3769)
    """
    return math.log1p((classes - 1) * math.exp(-gap))


def hard_structures(classes: int) -> dict[str, float]:
    """Return the structural floors of hard labels by name, nats."""
    return {
        DOUBLE_SOFTMAX: bounded_floor(classes, 1.0),
        TANH: bounded_floor(classes, 2.0),
        COSINE: bounded_floor(classes, classes / (classes - 1)),
    }


def soft_structures(q: Floats) -> dict[str, Floats]:
    """Return the structural floors of each label row (rows,), by name; rows sum to one.

    Args:
        q: Label rows (rows, classes); a few hundred are plenty.
    """
    q = np.asarray(q, dtype=np.float64)
    return {
        DOUBLE_SOFTMAX: simplex_floor(q),
        TANH: box_floor(q, -1.0, 1.0),
        COSINE: ball_floor(q),
    }


def box_floor(q: Floats, low: float, high: float, steps: int = 200) -> Floats:
    """Return min over low <= z <= high of -q.z + logsumexp(z), per row.

    Stationarity gives z = clip(log q + a, low, high) with a = logsumexp(z); both sides rise with a and the right one
    by less than one, so bisection finds it.
    """
    with np.errstate(divide="ignore"):
        log_q = np.log(q)
    below = np.full((len(q), 1), low)
    above = np.full((len(q), 1), high + math.log(q.shape[1]))
    for _ in range(steps):
        a = 0.5 * (below + above)
        short = _logsumexp(np.clip(log_q + a, low, high)) > a
        below, above = np.where(short, a, below), np.where(short, above, a)
    z = np.clip(log_q + above, low, high)
    return np.asarray(_logsumexp(z)[:, 0] - (q * z).sum(1))


def simplex_floor(q: Floats, steps: int = 400) -> Floats:
    """Return min over probabilities z of -q.z + logsumexp(z), per row, by exponentiated gradients.

    The loss is convex with a gradient of at most 1, so mirror descent reaches 1e-4 in a few hundred steps (Beck &
    Teboulle 2003); the best iterate is kept, so the result is never too low.
    """
    z = np.array(q)
    z = (z + 1e-9) / (z + 1e-9).sum(1, keepdims=True)
    best = np.full(len(q), np.inf)
    for step in range(steps):
        lse = _logsumexp(z)
        best = np.minimum(best, lse[:, 0] - (q * z).sum(1))
        rise = np.exp(z - lse) - q
        z = z * np.exp(-(8.0 if step < steps // 2 else 2.0) * (rise - rise.min(1, keepdims=True)))
        z /= z.sum(1, keepdims=True)
    return best


def ball_floor(q: Floats, steps: int = 300) -> Floats:
    """Return the least loss of unit vectors against unit class vectors at the corners of a simplex.

    The logits are then z = sqrt(C/(C-1)) (v - mean v) with |v - mean v| <= 1: a ball of radius sqrt(C/(C-1)) in the
    centred space, where projected gradients converge fast.
    """
    radius = math.sqrt(q.shape[1] / (q.shape[1] - 1))
    z = q - q.mean(1, keepdims=True)
    best = np.full(len(q), np.inf)
    for _ in range(steps):
        lse = _logsumexp(z)
        best = np.minimum(best, lse[:, 0] - (q * z).sum(1))
        z = z - 2.0 * (np.exp(z - lse) - q)
        z -= z.mean(1, keepdims=True)
        z *= np.minimum(1.0, radius / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12))
    return best


def binary_structures(rows: Floats) -> dict[str, Floats]:
    """Return the structural floors of binary cross-entropy on logits for each label (rows,), by name.

    Args:
        rows: Labels as pairs (y, 1-y).
    """
    y = np.asarray(rows, dtype=np.float64)[:, 0]

    def least(low: float, high: float) -> Floats:
        with np.errstate(divide="ignore"):
            z = np.clip(np.log(y) - np.log1p(-y), low, high)
        return np.asarray(np.logaddexp(0.0, z) - y * z)

    return {SIGMOID: least(0.0, 1.0), TANH: least(-1.0, 1.0)}


def _logsumexp(z: Floats) -> Floats:
    top = z.max(1, keepdims=True)
    return np.asarray(top + np.log(np.exp(z - top).sum(1, keepdims=True)))
