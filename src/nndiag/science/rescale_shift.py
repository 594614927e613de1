"""What dropout does downstream: into batch norm, along attention rows, in the loss, and how its scale is read off.

q = 1 − p is the keep probability throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nndiag.science.activation_moments import SELU_ALPHA, SELU_SCALE, double
from nndiag.science.rescale import check_rate, masks_of

ALPHA_PRIME = -SELU_SCALE * SELU_ALPHA  # −1.7580993408473766, what AlphaDropout puts in place of a dropped unit


def eval_over_train_variance(p: float, mean_square_over_variance: float) -> float:
    """Variance in eval over variance in training, right behind dropout: 1/(1 + p/q (1 + m²/v)).

    Exactly q for a centred input. Behind a ReLU of a centred Gaussian m²/v = 1/(π−1), which gives .8598, .6140,
    .4054 for p = .1, .3, .5 (Li et al. 2019, §3; their p is the keep probability).

    Example:
        >>> import math
        >>> round(eval_over_train_variance(0.5, 1 / (math.pi - 1)), 4)
        0.4054
    """
    q = check_rate(p)
    return 1 / (1 + p / q * (1 + mean_square_over_variance))


def variance_ratio(signal: Tensor, noise: Tensor, p: float) -> Tensor:
    """Variance in training over variance in eval behind a linear map: 1 + p/q · Σw²E[x²] / Var(w·x).

    Args:
        signal: Var(w·x) over the batch, one per unit.
        noise: Σ_i w_i² E[x_i²], the squared contributions averaged over the batch, one per unit.
        p: Drop probability.

    Returns:
        The ratio, nan where the unit does not vary at all.
    """
    q = check_rate(p)
    signal = double(signal)
    return torch.where(signal > 0, 1 + p / q * double(noise) / signal.clamp_min(1e-300), torch.nan)


def rate_for_ratio(ratio: float, p: float, wanted: float) -> float:
    """The rate that would bring a variance ratio down to `wanted`: p/q scales the excess."""
    excess = (ratio - 1) / (p / check_rate(p))
    odds = (wanted - 1) / excess
    return odds / (1 + odds)


@dataclass(frozen=True)
class AlphaAffine:
    """The affine map by which AlphaDropout restores mean 0 and variance 1."""

    a: float
    b: float


def alpha_affine(p: float) -> AlphaAffine:
    """A = (q + α'² q p)^{−1/2}, b = −a p α' (Klambauer et al. 2017, §A.6). Right only for input of N(0, 1)."""
    q = check_rate(p)
    a = (q + ALPHA_PRIME**2 * q * p) ** -0.5
    return AlphaAffine(a, -a * p * ALPHA_PRIME)


def alpha_output(p: float, mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance behind AlphaDropout, for any input mean and variance."""
    q = check_rate(p)
    affine = alpha_affine(p)
    inner = q * mean + p * ALPHA_PRIME
    second = q * (variance + mean * mean) + p * ALPHA_PRIME**2
    return affine.a * inner + affine.b, affine.a**2 * (second - inner * inner)


def row_sum_variance(attention: Tensor, p: float) -> Tensor:
    """Behind dropout an attention row no longer sums to one: Var = p/q Σa² = (p/q)/N_eff."""
    q = check_rate(p)
    return p / q * (double(attention) ** 2).sum(-1)


def collapse_probability(attention: Tensor, p: float, below: float = 0.5, top: int = 8) -> Tensor:
    """The chance that dropout leaves a row less than `below` of its mass.

    The largest `top` weights are enumerated, the rest is Gaussian: exact for peaked rows, where it matters.

    Args:
        attention: Rows of non-negative weights that sum to one, shape (…, keys).
        p: Drop probability.
        below: Remaining mass, before the sum of one.
        top: How many weights to enumerate.

    Returns:
        A probability for each row.
    """
    q = check_rate(p)
    rows = double(attention)
    top = min(top, rows.shape[-1])
    head = rows.topk(top, -1).values
    rest = (rows.sum(-1) - head.sum(-1)).clamp_min(0)
    rest_square = ((rows * rows).sum(-1) - (head * head).sum(-1)).clamp_min(0)
    kept = masks_of(top).to(rows.device)
    weight = q ** kept.sum(-1) * p ** (top - kept.sum(-1))
    mass = head @ kept.T / q + rest[..., None]
    width = torch.sqrt(p / q * rest_square)[..., None]
    gap = below - mass
    tail = torch.where(width > 1e-9, torch.special.ndtr(gap / width.clamp_min(1e-12)), (gap > 0).to(torch.float64))
    return tail @ weight


def squared_error_gap(weights: Tensor, second_moments: Tensor, p: float) -> float:
    """Training MSE − eval MSE for dropout in front of a linear regressor: p/q Σ_i w_i² E[x_i²], mean over outputs.

    Args:
        weights: (outputs, inputs).
        second_moments: E[x_i²], (inputs,).
        p: Drop probability.
    """
    q = check_rate(p)
    return float(p / q * (double(weights) ** 2 @ double(second_moments)).mean())


def cross_entropy_gap(weights: Tensor, x: Tensor, logits: Tensor, p: float) -> float:
    """Training − eval cross-entropy for dropout in front of a softmax head, to second order (Wager et al. 2013).

    ½ p/q Σ_i x_i² [Σ_c π_c w_ci² − (Σ_c π_c w_ci)²], mean over samples.

    Args:
        weights: (classes, inputs).
        x: (samples, inputs).
        logits: Without dropout, (samples, classes).
        p: Drop probability.
    """
    q = check_rate(p)
    w, x = double(weights), double(x)
    chance = torch.softmax(double(logits), -1)
    curvature = chance @ (w * w) - (chance @ w) ** 2  # (samples, inputs)
    return float(0.5 * p / q * (x * x * curvature).sum(-1).mean())


def logistic_gap(weights: Tensor, x: Tensor, logits: Tensor, p: float) -> float:
    """The same for independent sigmoid outputs: ½ p/q Σ_i w_i² x_i² π(1−π), mean over samples and outputs."""
    q = check_rate(p)
    w, x = double(weights), double(x)
    chance = torch.sigmoid(double(logits))
    return float(0.5 * p / q * ((x * x) @ (w * w).T * chance * (1 - chance)).mean())


@dataclass(frozen=True)
class OutputDropout:
    """Where least squares ends with dropout on its output: the fit, its training floor, its eval loss."""

    slope: float  # of the eval prediction on the target
    floor: float  # training loss that is left, in units of E[y²]
    eval_loss: float  # in units of E[y²]


def output_dropout(p: float, *, rescaled: bool = True) -> OutputDropout:
    """Minimising E(m f/q − y)² over f gives f = q y: eval predicts (1−p) y, loses p², and trains to p.

    Without the factor 1/q, E(m f − y)² gives f = y: the prediction is right and the floor is p.
    """
    q = check_rate(p)
    return OutputDropout(q, p, p * p) if rescaled else OutputDropout(1.0, p, 0.0)


def slope_error(y: Tensor, p: float, masks: int) -> float:
    """Standard error of the slope of mean training output on eval output: √(p/(qK) Σy⁴)/Σy²."""
    q = check_rate(p)
    y = double(y).reshape(-1)
    square = (y * y).sum()
    if not square > 0:
        return math.inf
    return float(torch.sqrt(p / (q * masks) * (y**4).sum()) / square)


def masks_needed(y: Tensor, p: float, errors: float = 5.0) -> int:
    """How many masks set a slope of 1 and one of 1−p this many standard errors apart."""
    if p <= 0:
        return 1
    single = slope_error(y, p, 1)
    return 10**9 if math.isinf(single) else max(1, math.ceil((errors * single / p) ** 2))
