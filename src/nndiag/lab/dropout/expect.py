"""What an activation makes of the sums behind a dropout, on average: Gaussian, corrected, or enumerated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nndiag.lab.dropout.closed import scattered
from nndiag.science.rescale import (
    PowerSums,
    counted,
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
FIRST, COUNTED = 32, 400  # sums looked at for repeated contributions, and then counted out if there are any


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
    counted: float = 0.0  # share of the sums whose contributions repeat or are few, so that all values can be listed

    @property
    def how(self) -> str:
        """Where the numbers come from, as far as it is not the Gaussian alone."""
        if self.counted >= 0.1:
            return f"every value of {self.counted:.0%} of the sums counted"
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
    few = slice(None) if activation.mean_form is not None else scattered(mu.numel(), QUADRATURE, mu.device)
    centre, width = mu.reshape(-1)[few], s.reshape(-1)[few]
    gaussian = activation.mean(centre, width)
    usual = gaussian
    if activation.name == "relu":
        corrected = relu_mean_edgeworth(mu, s, skew, kurtosis).reshape(-1)
        usual = torch.where(beyond.reshape(-1), gaussian, corrected)
    gain = _enumerated(sums, activation, p, beyond, s)
    share = float(beyond.double().mean()) if beyond.numel() else 0.0
    exact = _counted(sums, activation, p, beyond, s)
    some = scattered(mu.numel(), SECONDS, mu.device)
    tight, loose = mu.reshape(-1)[some], s.reshape(-1)[some]
    still = float((activation.f(tight) ** 2).mean())
    second = float(activation.second(tight, loose).mean()) + share * gain.second + exact.second
    return Expected(
        on=float(usual.mean()) + share * gain.mean + exact.mean,
        gaussian=float(gaussian.mean()),
        off=float(activation.f(centre).mean()),
        second_ratio=second / still if still > 0 else math.nan,
        dominated=float(beyond[alive].double().mean()) if bool(alive.any()) else 0.0,
        enumerated=gain.sums,
        participation=float(participation(power)[alive].median()) if bool(alive.any()) else math.nan,
        counted=exact.share,
    )


@dataclass(frozen=True)
class Gain:
    """What exactness adds to the Gaussian moments, on average over some of the sums."""

    mean: float = 0.0
    second: float = 0.0
    sums: int = 0
    share: float = 0.0  # of the sums looked at


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


def _counted(sums: Sums, activation: Activation, p: float, beyond: Tensor, s: Tensor) -> Gain:
    """Count out sums of repeated or few contributions; the rest, and those that are enumerated, add nothing."""
    total = sums.mean.numel()
    if sums.contributions is None or not total or p <= 0:
        return Gain()
    for most in (FIRST, COUNTED):
        flat = scattered(total, most, sums.mean.device)
        where = torch.stack(torch.unravel_index(flat, sums.mean.shape), 1)
        gain = _counted_at(sums, activation, p, where, ~beyond.reshape(-1)[flat], s)
        if not gain.sums or total <= most:
            break
    return gain


def _counted_at(  # noqa: PLR0913, PLR0917 - the sums, f and p, and which of them
    sums: Sums, activation: Activation, p: float, where: Tensor, wanted: Tensor, s: Tensor
) -> Gain:
    assert sums.contributions is not None
    at = where.unbind(1)
    c = sums.contributions(where).cpu()
    centre, width = sums.mean[at].cpu(), s[at].cpu()
    usual, second = activation.mean(centre, width), activation.second(centre, width)
    if activation.name == "relu":
        power = PowerSums.of(c)
        usual = relu_mean_edgeworth(centre, width, skewness(power, p), excess_kurtosis(power, p))
    more, more_second, n = 0.0, 0.0, 0
    for index in wanted.nonzero().flatten().tolist():
        table = counted(c[index], float(centre[index] - c[index].sum()), p)
        if table is None or len(table.values) < 2:
            continue
        more += table.mean(activation.f) - float(usual[index])
        more_second += table.mean(activation.squared.f) - float(second[index])
        n += 1
    return Gain(more / len(where), more_second / len(where), n, n / len(where))
