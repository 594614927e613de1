"""Entropy, cross-entropy and the floors that soft labels, smoothing and class weights put under a loss.

Everything is in nats. A target row u (classes) is what a cross-entropy really sums over: labels q after smoothing and
class weights. It need not sum to one; with W = sum(u), Gibbs' inequality gives

    min over p of -sum(u log p)  =  W H(u/W)  =  -sum(u log u) + W log W,   attained at p = u/W        (1)

(Cover & Thomas 2006, theorem 2.6.3), which is the floor H(q) when u = q and W = 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[Any]

LN2 = math.log(2.0)
_MANTISSA = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}  # stored bits


def xlogx(x: ArrayLike) -> Floats:
    """Return x log x, 0 at 0.

    Example:
        >>> float(xlogx(0.0)), round(float(xlogx(0.5)), 6)
        (-0.0, -0.346574)
    """
    x = np.asarray(x)
    tiny = 1e-38 if x.dtype == np.float32 else 1e-307
    return np.asarray(x * np.log(np.maximum(x, np.asarray(tiny, dtype=x.dtype))))


def row_floor(u: Floats) -> Floats:
    """Return the least possible -sum(u log p) of every row, equation (1).

    Args:
        u: Target rows (rows, classes), entries >= 0, any sum.

    Returns:
        Floors (rows,), nats; the entropy of the row where it sums to one.

    Example:
        >>> round(float(row_floor(np.array([[0.5, 0.5]]))[0]), 6)
        0.693147
    """
    u = np.asarray(u, dtype=np.float64)
    return np.asarray(xlogx(u.sum(-1)) - xlogx(u).sum(-1))


def log_softmax(logits: ArrayLike) -> Floats:
    """Return log softmax in float64: logits of float32 lose nothing (their rounding enters the KL squared)."""
    z = np.asarray(logits, dtype=np.float64)
    z = z - z.max(-1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(-1, keepdims=True)))


def kl(u: Floats, log_p: Floats) -> Floats:
    """Return W KL(u/W || p), right down to 1e-16 where CE - H is rounding noise.

    The Bregman form sum(q (r - log1p(r))), r = p/q - 1, has terms that are >= 0 and lose no digits near r = 0.

    Args:
        u: Target rows (rows, classes).
        log_p: Log probabilities (rows, classes) that sum to one.

    Returns:
        Excess over the floor (rows,), nats; infinite where p = 0 < u.
    """
    u = np.asarray(u, dtype=np.float64)
    total = u.sum(-1, keepdims=True)
    q = u / np.where(total > 0, total, 1.0)
    p = np.exp(log_p)
    seen = q > 0
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        ratio = np.where(seen, (p - q) / np.where(seen, q, 1.0), 0.0)
        terms = np.where(seen, q * (ratio - np.log1p(ratio)), p)
    # log1p(-1 + rounding) is coarse where p is tiny beside q; there the plain form is exact
    rare = seen & (ratio < -0.5)
    if rare.any():
        plain = q * (np.log(np.where(seen, q, 1.0)) - log_p) + p - q
        terms = np.where(rare, plain, terms)
    return np.asarray((terms.sum(-1, keepdims=True) * total)[..., 0])


def smoothing_rate(epsilon: float, classes: int, style: str = "torch") -> float:
    """Return the torch-style rate that gives these labels.

    torch, TensorFlow and timm spread epsilon over all C classes (epsilon/C each); fairseq spreads it over the C-1
    wrong ones, which is torch's smoothing at epsilon C/(C-1).
    """
    return epsilon * classes / (classes - 1) if style == "fairseq" and classes > 1 else epsilon


def smoothing_floor(classes: int, epsilon: float, style: str = "torch") -> float:
    """Return the floor of hard labels under label smoothing, nats.

    Example:
        >>> round(smoothing_floor(10, 0.1), 6), round(smoothing_floor(10, 0.1, "fairseq"), 6)
        (0.500288, 0.544805)
    """
    rate = smoothing_rate(epsilon, classes, style)
    wrong = rate / classes
    right = 1.0 - rate + wrong
    return float(-(xlogx(right) + (classes - 1) * xlogx(wrong)))


def soften(q: Floats, temperature: float) -> Floats:
    """Return softmax(z/T) of rows that were softmax(z): q^(1/T), normalised."""
    if temperature == 1.0:
        return q
    with np.errstate(divide="ignore"):
        return np.exp(log_softmax(np.log(np.asarray(q, dtype=np.float64)) / temperature))


def targets_of(q: Floats, rate: float = 0.0, weights: Floats | None = None) -> Floats:
    """Return the target rows that torch's cross_entropy sums over: smoothed, then weighted by class.

    Args:
        q: Label rows (rows, classes).
        rate: Label smoothing, torch style.
        weights: Class weights (classes,).
    """
    u = q * (1.0 - rate) + rate / q.shape[-1] if rate else q
    return u if weights is None else u * weights


def one_hot(ids: Floats, classes: int) -> Floats:
    """Return hard labels as rows (rows, classes)."""
    rows = np.zeros((len(ids), classes))
    rows[np.arange(len(ids)), ids] = 1.0
    return rows


def hard_floors(classes: int, rate: float, weights: Floats | None) -> Floats:
    """Return the floor of a hard label of each class, under smoothing and class weights.

    Equation (1) with u = w ((1-r) onehot + r/C): the sum over the wrong classes is shared by all labels, so C classes
    cost O(C), not O(C^2).

    Returns:
        Floors (classes,), nats.
    """
    w = np.ones(classes) if weights is None else np.asarray(weights, dtype=np.float64)
    base = w * rate / classes
    right = base + w * (1.0 - rate)
    total = base.sum() + w * (1.0 - rate)
    return np.asarray(xlogx(total) - (xlogx(base).sum() - xlogx(base) + xlogx(right)))


def ulp(value: float, dtype: str) -> float:
    """Return the step between neighbouring numbers of a dtype at this size: the least change it can show.

    Example:
        >>> ulp(1.02, "float32") == 2.0**-23, ulp(1.02, "bfloat16")
        (True, 0.0078125)
    """
    exponent = math.frexp(abs(value))[1] - 1 if value else -126
    return math.ldexp(1.0, max(exponent, -126) - _MANTISSA[dtype])


def logit_error(divergence: float, gini: float) -> float:
    """Return the root-mean-square logit error that a small KL corresponds to.

    KL is 1/2 d'(diag q - qq')d for a logit error d; for independent errors of size s its mean is 1/2 s^2 (1 - sum q^2).

    Args:
        divergence: KL, nats.
        gini: Mean of 1 - sum(q^2) over the rows.
    """
    return math.sqrt(2.0 * divergence / gini) if gini > 0 and divergence >= 0 else math.inf


def miller_madow(votes: int, answers: float) -> float:
    """Return by how much the entropy of a vote histogram is too low, nats (Miller 1955): (k-1)/(2n)."""
    return (answers - 1.0) / (2.0 * votes)
