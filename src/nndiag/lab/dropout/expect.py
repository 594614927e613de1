"""What an activation makes of the sums behind a dropout, on average: Gaussian, corrected, or enumerated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nndiag.science.rescale import (
    enumerated_mean,
    excess_kurtosis,
    participation,
    relu_mean_edgeworth,
    skewness,
    spread,
)

if TYPE_CHECKING:
    from nndiag.lab.dropout.closed import Sums
    from nndiag.science.activation_moments import Activation

SKEW, KURTOSIS = 1.0, 1.5  # beyond these the Gaussian is off by some .05 s
QUADRATURE = 2000  # sums integrated numerically
SECONDS = 2000  # sums whose second moment is taken


@dataclass(frozen=True)
class Expected:
    """Means behind an activation over all sums: dropout on, as a Gaussian would have it, and off."""

    on: float
    gaussian: float
    off: float
    second_ratio: float  # E[f(S)²] over f(mu)²
    dominated: float  # share of the sums that hang on a few inputs
    enumerated: int  # sums whose largest contributions were enumerated
    participation: float  # median

    @property
    def how(self) -> str:
        """Where the numbers come from, as far as it is not the Gaussian alone."""
        return f"the largest inputs of {self.dominated:.0%} of the sums enumerated" if self.enumerated else ""


def expected(sums: Sums, activation: Activation, p: float) -> Expected:
    """Average E[f(S)] over units and samples.

    A nearly Gaussian sum has its closed form, for ReLU with the Edgeworth correction; a sum with |skew| or excess
    kurtosis beyond the limits has its largest contributions enumerated, which no Gaussian can stand for.

    Args:
        sums: At the map behind the dropout.
        activation: f, elementwise.
        p: Drop probability, below one.
    """
    mu, power = sums.mean, sums.power
    s = spread(power.second, p)
    skew, kurtosis = skewness(power, p), excess_kurtosis(power, p)
    alive = power.second > 0
    beyond = ((skew.abs() > SKEW) | (kurtosis.abs() > KURTOSIS)) & alive
    few = slice(None) if activation.mean_form is not None else slice(None, None, max(1, mu.numel() // QUADRATURE))
    centre, width = mu.reshape(-1)[few], s.reshape(-1)[few]
    gaussian = activation.mean(centre, width)
    usual = gaussian
    if activation.name == "relu":
        corrected = relu_mean_edgeworth(mu, s, skew, kurtosis).reshape(-1)
        usual = torch.where(beyond.reshape(-1), gaussian, corrected)
    gain = _enumerated(sums, activation, p, beyond, s)
    share = float(beyond.double().mean()) if beyond.numel() else 0.0
    some = slice(None, None, max(1, mu.numel() // SECONDS))
    tight, loose = mu.reshape(-1)[some], s.reshape(-1)[some]
    still = float((activation.f(tight) ** 2).mean())
    second = float(activation.second(tight, loose).mean()) + share * gain.second
    return Expected(
        on=float(usual.mean()) + share * gain.mean,
        gaussian=float(gaussian.mean()),
        off=float(activation.f(centre).mean()),
        second_ratio=second / still if still > 0 else math.nan,
        dominated=float(beyond[alive].double().mean()) if bool(alive.any()) else 0.0,
        enumerated=gain.sums,
        participation=float(participation(power)[alive].median()) if bool(alive.any()) else math.nan,
    )


@dataclass(frozen=True)
class Gain:
    """What enumeration adds to the Gaussian moments, averaged over some of the dominated sums."""

    mean: float = 0.0
    second: float = 0.0
    sums: int = 0


def _enumerated(sums: Sums, activation: Activation, p: float, beyond: Tensor, s: Tensor) -> Gain:
    where = beyond.nonzero()
    if sums.contributions is None or not len(where):
        return Gain()
    # 2^8 Gaussians for each sum; where each of them is an integral, fewer sums and 2^5.
    pairs, top = (400, 8) if activation.second_form is not None or sums.inputs <= 8 else (60, 5)
    where = where[:: max(1, len(where) // pairs)][:pairs]
    at = where.unbind(1)
    c = sums.contributions(where)
    centre, width = sums.mean[at], s[at]
    bias = centre - c.sum(-1)
    mean = enumerated_mean(c, bias, p, activation, top) - activation.mean(centre, width)
    second = enumerated_mean(c, bias, p, activation.squared, top) - activation.second(centre, width)
    return Gain(float(mean.mean()), float(second.mean()), len(where))
