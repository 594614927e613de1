"""Which rows of a table a batch touches, and which it never will.

Axes: V rows, N lookups per batch, T batches. A row of probability p is missed by N independent lookups with probability
(1 - p)^N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def zipf_probabilities(rows: int, exponent: float = 1.0) -> NDArray[np.float64]:
    """Return p_i proportional to i^-s over ranks 1..V.

    Args:
        rows: V, at least 1.
        exponent: s; 0 is uniform, words of running text are near 1.

    Returns:
        Probabilities (rows,), most frequent first.
    """
    weights: NDArray[np.float64] = np.arange(1, rows + 1, dtype=np.float64) ** -exponent
    weights /= weights.sum()
    return weights


@dataclass(frozen=True, slots=True)
class UniqueRows:
    """Distinct rows among N lookups."""

    mean: float
    std: float  # an upper bound: occupancies are negatively associated


def expected_unique(probabilities: ArrayLike, lookups: float) -> UniqueRows:
    """Expected number of distinct rows: E[U] = sum_i 1 - (1 - p_i)^N.

    Args:
        probabilities: p (rows,), summing to one; rows that are never drawn may be zero.
        lookups: N.

    Returns:
        E[U], and the square root of sum q(1 - q) with q = (1 - p)^N, which bounds the standard deviation from above.

    Example:
        >>> round(expected_unique(zipf_probabilities(50_000), 4096).mean, 1)
        1926.5
    """
    p = np.asarray(probabilities, dtype=np.float64)
    with np.errstate(divide="ignore"):  # one row of probability 1: log1p(-1), never missed
        missed = np.exp(lookups * np.log1p(-p))
    return UniqueRows(float((1 - missed).sum()), float(np.sqrt((missed * (1 - missed)).sum())))


HEAD_RANKS = 100_000  # summed one by one; behind them neighbours are as good as equal
TAIL_RATIO = 1.01  # of the ranks at the ends of a bin


def zipf_unique(rows: int, lookups: float, exponent: float = 1.0) -> float:
    """Expected number of distinct rows among N lookups under Zipf's law, in time that does not grow with the table.

    `expected_unique`, with the ranks behind the first 100,000 in bins of 1 %: in a bin each is as likely as its middle.

    Args:
        rows: V.
        lookups: N.
        exponent: s.

    Example:
        >>> round(zipf_unique(50_000, 4096), 1)
        1926.5
    """
    head = np.arange(1, min(rows, HEAD_RANKS) + 1, dtype=np.float64)
    bins = math.ceil(math.log(rows / HEAD_RANKS) / math.log(TAIL_RATIO)) if rows > HEAD_RANKS else 0
    edges = np.unique(np.round(np.geomspace(HEAD_RANKS, rows, bins + 1))) if bins else np.empty(0)
    ranks = np.concatenate([head, (edges[:-1] + 1 + edges[1:]) / 2])
    many = np.concatenate([np.ones_like(head), np.diff(edges)])
    weight = ranks**-exponent
    p = weight / (many @ weight)
    with np.errstate(divide="ignore"):
        return float(many @ -np.expm1(lookups * np.log1p(-p)))


@dataclass(frozen=True, slots=True)
class Exposure:
    """How often rows are updated over a whole training."""

    never: float  # expected rows without any update
    rare: float  # expected rows with fewer than k updates on average, never-seen ones included


def expected_exposure(probabilities: ArrayLike, lookups: float, steps: int, fewest: float = 1.0) -> Exposure:
    """Count the rows that T batches of N lookups hardly reach.

    Args:
        probabilities: p (rows,).
        lookups: N per step.
        steps: T.
        fewest: k: a row with fewer expected updates is rare.

    Returns:
        Expected number of rows never updated, sum (1 - p)^(N T), and of rows updated in fewer than k steps on average.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    with np.errstate(divide="ignore"):
        missed = np.exp(lookups * np.log1p(-p))  # (rows,) one step
        never = np.exp(steps * lookups * np.log1p(-p))
    return Exposure(float(never.sum()), float(((1 - missed) * steps < fewest).sum()))


@dataclass(frozen=True, slots=True)
class ZipfFit:
    """Exponent of a rank-frequency law with its standard error."""

    exponent: float
    error: float
    rows: int


def fit_zipf(counts: ArrayLike, *, rows: int | None = None) -> ZipfFit:
    """Fit the exponent by maximum likelihood over ranks.

    With log Z(s) = log sum i^-s the log-likelihood is -s sum c_i log i - n log Z; it is concave, and its curvature, the
    variance of log rank under the fit, gives the standard error (Clauset, Shalizi & Newman 2009, section 3). Ranking by
    the same counts makes rare ranks look steeper than they are: read the exponent as a description, not as a law.

    Args:
        counts: Occurrences per row; zeros are allowed and left out of the ranking.
        rows: Ranks that could have occurred; the rows seen by default.

    Returns:
        Exponent in [0, 10] and its standard error (nan with fewer than two distinct rows).
    """
    c = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    c = c[c > 0]
    total = c.sum()
    support = max(rows or c.size, c.size)
    if c.size < 2:
        return ZipfFit(math.nan, math.nan, int(c.size))
    logs = np.log(np.arange(1, support + 1, dtype=np.float64))
    observed = float((c * logs[: c.size]).sum() / total)  # mean log rank

    def moments(exponent: float) -> tuple[float, float]:
        weight = np.exp(-exponent * logs)
        weight /= weight.sum()
        mean = float(weight @ logs)
        return mean, float(weight @ logs**2) - mean**2

    low, high = 0.0, 10.0
    if moments(low)[0] <= observed:
        exponent = low
    elif moments(high)[0] >= observed:
        exponent = high
    else:
        from scipy.optimize import brentq

        exponent = float(brentq(lambda s: moments(s)[0] - observed, low, high, xtol=1e-10))
    variance = moments(exponent)[1]
    error = 1 / math.sqrt(total * variance) if variance > 0 else math.nan
    return ZipfFit(exponent, error, int(c.size))


def coverage(counts: ArrayLike, shares: tuple[float, ...] = (0.5, 0.9, 0.99, 0.999)) -> tuple[int, ...]:
    """Return how many of the most frequent rows cover each share of the lookups.

    Args:
        counts: Occurrences per row.
        shares: Fractions in (0, 1].

    Returns:
        One number of rows per share.
    """
    c = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    total = c.sum()
    if total == 0:
        return tuple(0 for _ in shares)
    running = np.cumsum(c) / total
    return tuple(int(np.searchsorted(running, share - 1e-12) + 1) for share in shares)


def kept_by_minimum(counts: ArrayLike, minimum: int) -> tuple[int, float]:
    """Rows seen at least `minimum` times, and the share of lookups they serve."""
    c = np.asarray(counts)
    kept = c >= max(minimum, 1)
    total = c.sum()
    return int(kept.sum()), float(c[kept].sum() / total) if total else 0.0


def hash_collisions(seen: int, buckets: int) -> float:
    """Expected share of `seen` distinct rows that share a bucket with another one, hashed uniformly."""
    if buckets <= 0 or seen <= 1:
        return 0.0
    return float(-np.expm1((seen - 1) * np.log1p(-1 / buckets))) if buckets > 1 else 1.0
