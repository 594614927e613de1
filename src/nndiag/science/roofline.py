"""Time from bytes, and time from smaller tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes a second to import

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Machine:
    """What bounds a step: bytes per second in place, bytes per second into fresh memory, operations per second."""

    name: str
    stream: float
    fresh: float
    flops: float

    @property
    def balance(self) -> float:
        """Operations that cost as much as one byte."""
        return self.flops / self.stream


# Round figures for arithmetic without a clock; every report that uses one says which.
CPU_CORE = Machine(
    "one CPU core, 20 GB/s, 2.5 GB/s into fresh memory, 100 GFLOP/s", stream=20e9, fresh=2.5e9, flops=100e9
)
GPU = Machine("a data-centre GPU, 1.5 TB/s, 20 TFLOP/s", stream=1.5e12, fresh=1.5e12, flops=20e12)


def seconds(machine: Machine, *, moved: float = 0.0, fresh: float = 0.0, flops: float = 0.0) -> float:
    """Lower bound of the time of one operation: the larger of memory and arithmetic.

    Source: Williams, Waterman & Patterson 2009, CACM 52(4).

    Args:
        machine: Its measured or assumed rates.
        moved: Bytes read and written in memory that is already mapped.
        fresh: Bytes written to new memory, which a CPU pays in page faults.
        flops: Operations.

    Returns:
        Seconds.
    """
    return max(moved / machine.stream + fresh / machine.fresh, flops / machine.flops)


@dataclass(frozen=True, slots=True)
class Line:
    """T = a + b V, fitted."""

    intercept: float
    slope: float
    points: int
    residual: float  # standard deviation around the line; nan with two points
    mean_x: float
    spread_x: float  # sum of squared deviations of x
    noise: float = 0.0  # standard deviation of one point, from its repetitions

    def at(self, x: float) -> float:
        """Predicted value."""
        return self.intercept + self.slope * x

    def interval(self, x: float) -> tuple[float, float]:
        """95 % prediction interval at x: Student's t on the residuals; two points fall back on their repetitions."""
        freedom = self.points - 2
        deviation = max(self.noise, self.residual if freedom > 0 else 0.0)
        quantile = float(stdtrit(freedom, 0.975)) if freedom > 0 and self.residual >= self.noise else 1.96
        if freedom == 1:  # one residual degree of freedom says little about its own size: 12.7 sigma misleads
            quantile = min(quantile, 4.3)
        leverage = 1 / self.points + (x - self.mean_x) ** 2 / self.spread_x if self.spread_x else 1.0
        half = quantile * deviation * math.sqrt(1 + leverage)
        return max(self.at(x) - half, 0.0), self.at(x) + half


def fit_line(x: ArrayLike, y: ArrayLike, *, noise: float = 0.0) -> Line:
    """Fit T = a + b V by least squares with a, b >= 0: no step takes negative time, no row saves any.

    Args:
        x: Sizes (points,), at least two different ones.
        y: Times (points,).
        noise: Standard deviation of one time, from its repetitions.

    Returns:
        The line with what its interval needs.
    """
    v = np.asarray(x, dtype=np.float64)
    t = np.asarray(y, dtype=np.float64)
    spread = float(((v - v.mean()) ** 2).sum())
    slope = float(((v - v.mean()) * (t - t.mean())).sum() / spread) if spread else 0.0
    slope = max(slope, 0.0)
    intercept = float(t.mean() - slope * v.mean())
    if intercept < 0:
        intercept, slope = 0.0, float((v @ t) / (v @ v))
    rest = t - intercept - slope * v
    residual = float(np.sqrt((rest**2).sum() / (v.size - 2))) if v.size > 2 else math.nan
    return Line(intercept, slope, v.size, residual, float(v.mean()), spread, noise)


def share_from_growth(small: float, large: float, growth: float) -> tuple[float, float]:
    """Share of the step spent on the table at two sizes, from how much the step grew between them.

    With T = a + bV and T(large) = growth * T(small), b V / T follows at both sizes.

    Args:
        small: Rows before.
        large: Rows after.
        growth: Step time after / before, between 1 and large / small.

    Returns:
        Share before, share after.

    Example:
        >>> [round(share, 2) for share in share_from_growth(200_000, 2_000_000, 2.0)]
        [0.11, 0.56]
    """
    slope = (growth - 1) / (large - small)  # in units of T(small)
    return slope * small, slope * large / growth
