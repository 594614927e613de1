"""What the scale, the offset and the correlations of inputs do to the first layer's curvature.

Axis names: samples (n), features (d), classes (C). With G = E[x̃ x̃ᵀ], x̃ = [x; 1] (uncentred, bias included), a layer
that is the whole model has the Hessian k·G (LeCun, Bottou, Orr & Müller 1998, sec. 4-5), so gradient descent is
stable up to the learning rate 2 / (k λmax).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import integrate, special
from scipy.sparse.linalg import LinearOperator, eigsh

if TYPE_CHECKING:
    from nndiag.science.moments import Array

EULER = 0.5772156649015329
DENSE = 1200  # features up to which the full spectrum is cheap


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The eigenvalues that matter of a second-moment matrix; no unit (squared units of the inputs)."""

    top: float  # largest eigenvalue of the uncentred matrix, bias included
    centred_top: float
    condition: float  # uncentred, over the directions that vary; nan where it is not determined
    centred_condition: float
    baseline: float  # what white data of this size would show
    effective_rank: float  # of the centred matrix
    trace: float  # E||x||²


def curvature_multiplier(loss: str, outputs: int) -> float:
    """Return k in λmax(H) = k λmax(G) for a linear layer at small logits.

    2/K for torch's mean squared error over K outputs, 1/(4K) for binary cross-entropy with logits, 1/C for softmax
    cross-entropy at zero logits (its Hessian in logit space is (I - 11ᵀ/C)/C; Böhning 1992).

    Raises:
        ValueError: The loss is none of these.
    """
    known = {"mse": 2.0 / outputs, "half_mse": 1.0, "bce": 0.25 / outputs, "cross_entropy": 1.0 / outputs}
    if loss not in known:
        raise ValueError(loss)
    return known[loss]


def step_ceiling(curvature: float, momentum: float = 0.0) -> float:
    """Return the largest stable learning rate of gradient descent: 2 (1 + m) / λmax(H) (Polyak 1964).

    Example:
        >>> step_ceiling(4.0), step_ceiling(4.0, momentum=0.5)
        (0.5, 0.75)
    """
    return 2.0 * (1.0 + momentum) / curvature if curvature > 0 else math.inf


def sign_step_reach(sample: Array, lr: float) -> float:
    """Return how far one sign step (Adam's first) moves a unit of the first layer: lr · E||x||₁."""
    return lr * float(np.abs(np.asarray(sample, dtype=np.float64)).sum(axis=1).mean())


def marchenko_pastur_condition(samples: int, features: int) -> float:
    """Return the condition number that white data shows: ((1+√y)/(1-√y))², y = d/n (Marchenko & Pastur 1967)."""
    ratio = math.sqrt(features / samples)
    return ((1 + ratio) / (1 - ratio)) ** 2 if ratio < 1 else math.inf


def top_eigenvalue(sample: Array, *, bias: bool = True, centre: bool = False) -> float:
    """Return λmax of X̃ᵀX̃/n without forming it when d or n is large.

    Args:
        sample: (samples, features), finite.
        bias: Append the constant input 1.
        centre: Subtract the mean first.

    Returns:
        The largest eigenvalue.
    """
    x = np.asarray(sample, dtype=np.float64)
    if centre:
        x = x - x.mean(axis=0)
    if bias:
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    n, d = x.shape
    if min(n, d) <= DENSE:
        gram = (x @ x.T if n < d else x.T @ x) / n
        return float(np.linalg.eigvalsh(gram)[-1])
    operator = LinearOperator((d, d), matvec=lambda v: x.T @ (x @ v) / n, dtype=np.float64)
    start = np.ones(d) / math.sqrt(d)
    return float(eigsh(operator, k=1, v0=start, return_eigenvectors=False, tol=1e-8)[0])


def spectrum(sample: Array) -> Spectrum:
    """Return top eigenvalues, condition numbers and effective rank of a sample.

    Condition numbers leave out directions that do not vary and are nan when n < 2 d: the smallest eigenvalue of so
    few samples says nothing about the data.

    Args:
        sample: (samples, features), finite.
    """
    x = np.asarray(sample, dtype=np.float64)
    x = x[:, x.min(axis=0) != x.max(axis=0)] if len(x) else x
    n, d = x.shape
    if n == 0 or d == 0:
        return Spectrum(math.nan, math.nan, math.nan, math.nan, math.nan, 0.0, math.nan)
    trace = float((x**2).sum(axis=1).mean())
    base = marchenko_pastur_condition(n, d)
    top = top_eigenvalue(x)
    if d > DENSE or n < 2 * d:
        centred = top_eigenvalue(x, bias=False, centre=True)
        return Spectrum(top, centred, math.nan, math.nan, base, math.nan, trace)
    gap = x - x.mean(axis=0)
    inner = np.linalg.eigvalsh(gap.T @ gap / n)
    outer = np.linalg.eigvalsh(x.T @ x / n)
    floor = 1e-12
    kept = inner[inner > floor * inner[-1]]
    seen = outer[outer > floor * outer[-1]]
    return Spectrum(
        top,
        float(inner[-1]),
        float(seen[-1] / seen[0]),
        float(kept[-1] / kept[0]),
        base,
        float(inner.sum() ** 2 / (inner**2).sum()),
        trace,
    )


def mean_cost(mean: float, sd: float, features: int) -> float:
    """Return the condition number that a common mean costs: 1 + d m² / s² (LeCun et al. 1998, sec. 4.3)."""
    return 1.0 + features * mean**2 / sd**2 if sd > 0 else math.inf


def default_logit_spread(norm2: float, features: int) -> float:
    """Return the logits' sd of a default torch Linear: √((E||x||² + 1) / (3 d)), weights U(±1/√d)."""
    return math.sqrt((norm2 + 1.0) / (3.0 * features))


def initial_loss(spread: float, classes: int) -> float:
    """Return the expected cross-entropy of independent Gaussian logits with this sd, labels at random.

    E[log Σ exp zᵢ] is computed exactly by the Gumbel-max identity: log Σ exp zᵢ + γ = E[max(zᵢ + gᵢ)], with gᵢ
    standard Gumbel (Gumbel 1954), which leaves one-dimensional integrals.

    Args:
        spread: Standard deviation of the logits.
        classes: C ≥ 2.

    Returns:
        Nats. ln C + s²/2 (1 - 1/C) for small s, s·E[max of C normals] for large s.
    """
    if spread <= 1e-9:
        return math.log(classes)
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()

    def single(t: float) -> float:
        if spread > 8:  # the Gumbel step is narrow there: integrate its density against the normal cdf
            grid = np.linspace(-4.0, 40.0, 4001)
            density = np.exp(-grid - np.exp(-grid))
            return float(integrate.trapezoid(density * special.ndtr((t - grid) / spread), grid))
        return float(weights @ np.exp(-np.exp(-np.clip(t - spread * nodes, -700, 700))))

    low, high = -12.0 * spread - 6.0, 12.0 * spread + 45.0
    grid = np.linspace(low, high, 3001)
    cdf = np.clip(np.array([single(t) for t in grid]), 0.0, 1.0) ** classes
    return high - float(integrate.simpson(cdf, x=grid)) - EULER  # E[max] = high - ∫ F
