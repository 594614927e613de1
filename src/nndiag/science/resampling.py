"""How sure is a statistic of means and spreads? The bootstrap over rows (Efron & Tibshirani 1993, ch. 6 and 13).

Axis names: rows, features, inner (pixels of one channel: not independent, so whole rows are drawn), draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.science.moments import Array

DRAWS = 200
ENDS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Resampled:
    """Mean and sd per feature of a sample, and of samples drawn from it with replacement.

    Attributes:
        mean: (1 + draws, features); the first row is the sample as it is.
        sd: (1 + draws, features).
        share: Rows of the sample over the rows it stands for: what was measured on all rows is surer than the sample.
    """

    mean: Array
    sd: Array
    share: float = 1.0

    def interval(self, statistic: Callable[[Array, Array], Array], value: float) -> tuple[float, float]:
        """Return the 95 % interval of a statistic of (draws, features) means and sds, about its measured value."""
        return about(value, statistic(self.mean, self.sd), self.share)


def resampled(rows: Array, *, of: int | None = None, seed: int = 0) -> Resampled:
    """Draw rows with replacement.

    Args:
        rows: (rows, features, inner), finite.
        of: How many rows the sample stands for.
        seed: Of the draws.
    """
    x = np.asarray(rows, dtype=np.float64)
    n, centre = len(x), x.mean(axis=(0, 2))
    x = x - centre[:, None]  # squares of large offsets would cancel
    first, second = x.mean(axis=2), (x**2).mean(axis=2)  # (rows, features)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS) / n
    weights = np.concatenate([np.full((1, n), 1 / n), weights])  # (1 + draws, rows)
    mean = weights @ first
    sd = np.sqrt(np.maximum(weights @ second - mean**2, 0.0))
    return Resampled(mean + centre, sd, min(1.0, n / of) if of else 1.0)


def about(value: float, found: Array, share: float = 1.0) -> tuple[float, float]:
    """Return the 95 % interval about a value; `found` is the statistic of the sample, then of each draw."""
    apart = np.quantile(found[1:] - found[0], ENDS) * np.sqrt(share)
    return float(value + min(apart[0], 0.0)), float(value + max(apart[1], 0.0))


def jackknife(whole: float, without: Array) -> tuple[float, float] | None:
    """Return the 95 % interval of a statistic from its values with one group left out (Efron & Tibshirani, eq. 11.5).

    Args:
        whole: The statistic of all groups.
        without: (groups,) the statistic without each group; fewer than three say nothing.
    """
    groups = len(without)
    if groups < 3 or not np.isfinite(without).all():
        return None
    error = float(np.sqrt((groups - 1) / groups * ((without - without.mean()) ** 2).sum()))
    return whole - 1.96 * error, whole + 1.96 * error
