"""Where the tail of a loss curve stands, how surely, and what it was rounded to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nndiag.science.entropy import ulp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

LEAST = 5  # points of a tail, where there are that many


@dataclass(frozen=True)
class Tail:
    """The last part of a curve."""

    points: int
    mean: float
    se: float  # of the mean, with neighbouring points' correlation counted
    change: float  # fitted change over the tail; negative while it descends
    change_se: float
    before: float  # mean of the stretch before it, twice as long
    spread: float  # largest minus smallest
    least: float  # smallest

    @property
    def descending(self) -> bool:
        """Whether it still falls, beyond its noise."""
        return self.change < -3.0 * self.change_se

    def flat(self, scale: float) -> bool:
        """Whether the last three tenths stay within `scale` of one level."""
        noise = 3.0 * math.hypot(self.se, self.change_se)
        drop = max(abs(self.before - self.mean), abs(self.change))
        return drop <= max(scale, min(noise, 2.0 * scale))


def tail_of(values: Floats, points: int) -> Tail:
    """Describe the last `points` values.

    The standard error counts correlation between neighbours: n (1-r)/(1+r) independent values for a lag-one
    correlation r of the residuals about a line (Bartlett 1946).
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    points = min(max(points, min(LEAST, n)), n)
    tail = values[-points:]
    window = values[-min(n, max(points, 20)) :]
    x = np.arange(points) - (points - 1) / 2.0
    slope = float((x * tail).sum() / max((x * x).sum(), 1e-300))
    residual = tail - tail.mean() - slope * x
    differences = np.diff(window)
    # a median of neighbours' differences: the noise of a short tail, whatever the curve did before it
    shaky = 1.0484 * float(np.median(np.abs(differences))) if len(differences) else 0.0
    sd = max(float(residual.std(ddof=min(2, points - 1))), shaky if points < 10 else 0.0)
    effective = _effective(residual)
    se = sd / math.sqrt(effective)
    change = slope * (points - 1)
    change_se = sd * (points - 1) / math.sqrt(max(float((x * x).sum()) * effective / points, 1e-300))
    earlier = values[max(0, n - 3 * points) : n - points]
    before = float(earlier.mean()) if len(earlier) else float(values[0])
    spread = float(tail.max() - tail.min())
    return Tail(points, float(tail.mean()), se, change, change_se, before, spread, float(tail.min()))


def _effective(residual: Floats) -> float:
    """How many independent values these are worth."""
    n = len(residual)
    power = float((residual**2).sum())
    if n < 4 or power == 0.0:
        return float(n)
    r = min(max(float((residual[1:] * residual[:-1]).sum()) / power, 0.0), 0.99)
    return max(n * (1.0 - r) / (1.0 + r), 1.0)


def coarse_dtype(values: Floats, rounding: float) -> str | None:
    """Return "bfloat16" or "float16" when every value of the curve lies on that dtype's grid.

    Args:
        values: The curve.
        rounding: Half a unit of the last written digit.

    Returns:
        The dtype, None when a value lies off the grid, there are too few different values, or the text is too coarse
        to tell.
    """
    distinct = np.unique(np.asarray(values, dtype=np.float64))
    distinct = distinct[distinct > 0]
    for dtype in ("bfloat16", "float16"):
        if len(distinct) < 6:
            return None
        steps = np.array([ulp(float(value), dtype) for value in distinct])
        away = np.abs(distinct / steps - np.rint(distinct / steps)) * steps
        slack = rounding + 2.0**-24 * distinct
        chance = float(np.prod(np.minimum(2.0 * slack / steps, 1.0)))
        if (away <= slack).all() and chance < 1e-6:
            return dtype
    return None
