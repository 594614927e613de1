"""What dropout does to a sum: S = b + Σ c_i m_i/q with m_i ~ Bernoulli(q), c_i = w_i x_i.

The factor 1/q keeps the mean of S exactly, whatever the c_i. What the argument then needs is that S is nearly
Gaussian and that the next function is nearly linear over its spread. Both can be measured: the first by the
participation ratio and the skew of the contributions, the second by mu/s (see `activation_moments`).
Source: Srivastava et al. 2014, §10; Wang & Manning 2013; moments of a weighted Bernoulli sum.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from nndiag.science.activation_moments import density, double, relu_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.science.activation_moments import Activation

STATES = 4096  # values of a sum that are listed one by one
SAME = 1e-6  # relative difference of two contributions that are one
BERRY_ESSEEN = 0.56  # Shevtsova 2010, independent non-identical summands


@dataclass(frozen=True)
class PowerSums:
    """Σ c^k over the contributions of each pre-activation, k = 2, 3, 4, and the largest c²; any common shape."""

    second: Tensor
    third: Tensor
    fourth: Tensor
    largest: Tensor | None = None

    @classmethod
    def of(cls, contributions: Tensor) -> PowerSums:
        """Sum over the last axis."""
        c = double(contributions)
        square = c * c
        return cls(square.sum(-1), (square * c).sum(-1), (square * square).sum(-1), square.amax(-1))


def check_rate(p: float) -> float:
    """Return the keep probability; p must leave something to keep."""
    if not 0 <= p < 1:
        raise ValueError(f"a dropout rate must lie in [0, 1), got {p}")
    return 1 - p


def spread(second: Tensor, p: float, *, rescaled: bool = True) -> Tensor:
    """The standard deviation of S: √(p/q Σc²); without the factor 1/q, √(pq Σc²)."""
    q = check_rate(p)
    return torch.sqrt(double(second) * (p / q if rescaled else p * q))


def participation(sums: PowerSums) -> Tensor:
    """(Σc²)²/Σc⁴: how many contributions effectively share the variance of S. 0 where there is no contribution."""
    return torch.where(sums.fourth > 0, sums.second**2 / sums.fourth.clamp_min(1e-300), 0.0)


def skewness(sums: PowerSums, p: float) -> Tensor:
    """(2p−1)/√(pq) · Σc³/(Σc²)^{3/2}."""
    q = check_rate(p)
    if p == 0:
        return torch.zeros_like(sums.third)
    shape = torch.where(sums.second > 0, sums.third / sums.second.clamp_min(1e-200) ** 1.5, 0.0)
    return (2 * p - 1) / math.sqrt(p * q) * shape


def excess_kurtosis(sums: PowerSums, p: float) -> Tensor:
    """(1−6pq)/(pq) / PR."""
    q = check_rate(p)
    if p == 0:
        return torch.zeros_like(sums.fourth)
    ratio = participation(sums)
    return torch.where(ratio > 0, (1 - 6 * p * q) / (p * q) / ratio.clamp_min(1e-12), 0.0)


def berry_esseen(contributions: Tensor, p: float) -> Tensor:
    """A certificate: the distribution function of S is within this of the Gaussian one (at most 1)."""
    q = check_rate(p)
    c = double(contributions).abs()
    if p == 0:
        return torch.zeros(c.shape[:-1], dtype=torch.float64)
    shape = (c**3).sum(-1) / (c * c).sum(-1).clamp_min(1e-300) ** 1.5
    return (BERRY_ESSEEN * shape * (q * q + p * p) / math.sqrt(p * q)).clamp_max(1.0)


def relu_mean_edgeworth(mu: Tensor, s: Tensor, skew: Tensor, kurtosis: Tensor) -> Tensor:
    """E[relu(S)] corrected for skew g and excess kurtosis k (Edgeworth, to order 1/PR).

    s [tΦ(t) + φ(t) − g/6 tφ(t) + k/24 (t²−1)φ(t) + g²/72 (t⁴−6t²+3)φ(t)], t = mu/s. Ten times closer than the
    Gaussian form at PR = 12, p = .1; the series is asymptotic, so it is not for one or two contributions.
    """
    mu, s = double(mu), double(s)
    t = torch.where(s > 0, mu / torch.where(s > 0, s, 1.0), 40.0).clamp(-40, 40)
    series = -skew / 6 * t + kurtosis / 24 * (t * t - 1) + skew * skew / 72 * (t**4 - 6 * t * t + 3)
    return relu_mean(mu, s) + s * density(t) * series


def enumerated_mean(
    contributions: Tensor, bias: Tensor | float, p: float, activation: Activation, top: int = 8
) -> Tensor:
    """E[f(S)] with the largest contributions enumerated and the rest taken as Gaussian.

    For a unit that hangs on a few inputs the Gaussian is wrong and 2^top masks are cheap. Exact when there are no
    more than `top` contributions.

    Args:
        contributions: c_i = w_i x_i, shape (…, inputs).
        bias: b, broadcast against the leading shape.
        p: Drop probability.
        activation: f, with its Gaussian mean.
        top: How many contributions to enumerate; 2^top terms.

    Returns:
        E[f(S)], shape (…).
    """
    q = check_rate(p)
    c = double(contributions)
    top = min(top, c.shape[-1])
    order = c.abs().argsort(-1, descending=True)
    c = c.gather(-1, order)
    head, tail = c[..., :top], c[..., top:]
    kept = masks_of(top).to(c.device)  # (2^top, top)
    probability = q ** kept.sum(-1) * p ** (top - kept.sum(-1))
    centre = double(bias) + tail.sum(-1)
    width = spread((tail * tail).sum(-1), p)
    centres = centre[..., None] + head @ kept.T / q  # (…, 2^top)
    if tail.shape[-1] == 0:
        return activation.f(centres) @ probability
    return activation.mean(centres, width[..., None].expand_as(centres)) @ probability


@dataclass(frozen=True)
class Counted:
    """All values a sum can take under dropout, and how likely each is."""

    values: Tensor  # (states,)
    chances: Tensor  # (states,), summing to one

    def mean(self, f: Callable[[Tensor], Tensor]) -> float:
        """E[f(S)], exactly."""
        return float(f(self.values) @ self.chances)


def counted(contributions: Tensor, bias: float, p: float, states: int = STATES) -> Counted | None:
    """The exact distribution of S where its contributions repeat, or are few.

    Of n contributions of one size, n⁺ with one sign and n⁻ with the other, only the number that is kept matters:
    c/q · (K⁺ − K⁻) with K binomial, n + 1 values in place of 2^n masks. Binary inputs, one-hot codes and weights of
    ±1 make such sums; a Gaussian smooths over their steps.

    Args:
        contributions: c_i of one sum, shape (inputs,).
        bias: b.
        p: Drop probability.
        states: The most values to list.

    Returns:
        The distribution, or None where it would have more values than that.
    """
    q = check_rate(p)
    c = double(contributions)
    c = c[c != 0]
    c = c[c.abs().argsort()]
    new = torch.ones(len(c), dtype=torch.bool)
    new[1:] = c.abs().diff() > SAME * c.abs()[1:]
    starts = [*new.nonzero().flatten().tolist(), len(c)]
    sizes = [after - first for first, after in itertools.pairwise(starts)]
    if math.prod(size + 1 for size in sizes) > states:
        return None
    values, chances = torch.full((1,), float(bias), dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for first, after in itertools.pairwise(starts):
        group = c[first:after]
        negative = int((group < 0).sum())
        # n⁻ − K⁻ is binomial too, with p for q: the sum of both counts is a convolution on one lattice.
        count = np.convolve(_binomial(after - first - negative, q), _binomial(negative, p))
        steps = (torch.arange(after - first + 1, dtype=torch.float64) - negative) * float(group.abs().mean()) / q
        values = (values[:, None] + steps).flatten()
        chances = (chances[:, None] * torch.from_numpy(count)).flatten()
    return Counted(values, chances)


def _binomial(n: int, rate: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Chances of 0 … n kept."""
    k = np.arange(n + 1.0)
    if rate in {0.0, 1.0}:
        return np.where(k == n * rate, 1.0, 0.0)
    log = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + k * math.log(rate) + (n - k) * math.log1p(-rate)
    chances: np.ndarray[tuple[int], np.dtype[np.float64]] = np.exp(log)
    return chances


def masks_of(n: int) -> Tensor:
    """All 2^n masks, one per row."""
    rows = torch.arange(2**n)
    return ((rows[:, None] >> torch.arange(n)) & 1).to(torch.float64)


def direct_mean(x: Tensor, p: float, activation: Activation) -> Tensor:
    """E[f(m x/q)] when f follows dropout with no sum between: q f(x/q) + p f(0), exactly.

    A positively homogeneous f (ReLU) gives f(x) back; sigmoid gives .7487 for x = 3, p = .5, where f(x) = .9526.
    """
    q = check_rate(p)
    x = double(x)
    return q * activation.f(x / q) + p * activation.f(torch.zeros_like(x))


def grouped(contributions: Tensor, groups: int) -> Tensor:
    """Sum contributions that one mask element drops together: (…, groups·k) to (…, groups).

    Channel dropout drops whole channels, so the variance is p/q Σ_ch (Σ_{k in ch} c_k)², not p/q Σ c_k².
    """
    return contributions.reshape(*contributions.shape[:-1], groups, -1).sum(-1)
