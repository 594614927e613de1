"""Are the colours of two sets in the same order? Statistics that change their sign when R and B change places.

Means and spreads of the channels are nearly alike in photographs and wander with the light; what one pixel's channels
have to do with one another wanders less. Axis names: samples, channels, inner (pixels of one channel).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from nndiag.science.moments import Array

FEWEST = 30  # images on each side
RULED_OUT = 60.0  # chi-square of the order as it is, six degrees of freedom: p below 1e-10
BETTER = 40.0  # by which the reversed order must fit better
VISIBLE = 100.0  # chi-square that a swap must be expected to show, so that its absence says something
FITS = 1e-3  # p of the reversed order


@dataclass(frozen=True, slots=True)
class Order:
    """Chi-squares of the two orders, and the one that "as it is" would show if serving were reversed."""

    kept: float
    turned: float
    power: float

    @property
    def swapped(self) -> bool:
        """Whether the order as it is can be ruled out, and the reversed one fits."""
        fits = special.chdtrc(_ODD, self.turned) > FITS
        return bool(fits and self.kept > RULED_OUT and self.kept - self.turned > BETTER)

    @property
    def visible(self) -> bool:
        """Whether a swap would show."""
        return self.power > VISIBLE


_ODD = 6


def odd_statistics(rows: Array) -> Array:
    """Return six numbers per image that change sign with R and B: (samples, 6).

    Differences of mean, of square, of the product with green, of spread, of the distance from green, and the cube of
    the difference.
    """
    red, green, blue = (np.asarray(rows[:, c], dtype=np.float64) for c in range(3))
    gap = red - blue
    return np.stack(
        [
            gap.mean(axis=1),
            (gap * (red + blue)).mean(axis=1),
            (gap * green).mean(axis=1),
            red.std(axis=1) - blue.std(axis=1),
            np.abs(red - green).mean(axis=1) - np.abs(blue - green).mean(axis=1),
            (gap**3).mean(axis=1),
        ],
        axis=1,
    )


def order_of(train: Array, serve: Array) -> Order | None:
    """Compare the odd statistics as they are and with their sign turned (Hotelling's T², unequal covariances).

    Args:
        train: (samples, 3, inner), finite.
        serve: (samples, 3, inner), finite.

    Returns:
        None for fewer than 30 images on one side, or where R and B are equal throughout.
    """
    if min(len(train), len(serve)) < FEWEST:
        return None
    x, y = odd_statistics(train), odd_statistics(serve)
    spread = np.maximum(x.std(axis=0), y.std(axis=0))
    if not (spread > 0).all():
        return None
    x, y = x / spread, y / spread
    noise = np.cov(x.T) / len(x) + np.cov(y.T) / len(y)
    noise += 1e-6 * np.trace(noise) / _ODD * np.eye(_ODD)  # statistics that go together throughout
    mean, other = x.mean(axis=0), y.mean(axis=0)

    def square(gap: Array) -> float:
        return float(gap @ np.linalg.solve(noise, gap))

    return Order(square(other - mean), square(other + mean), square(2 * mean))
