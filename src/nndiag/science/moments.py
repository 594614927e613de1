"""Mean, spread and range of a stream, merged without losing digits.

Axis names: rows, features. Everything is accumulated in float64 about a pivot close to the mean, and parts are
joined by Chan's update, so neither the order nor the size of the parts matters beyond the last digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
BLOCK = 262_144  # numbers worked on at once: a float64 copy stays in the processor's cache, and threads seldom meet
OFFSET = 100.0  # mean² over variance up to which sums about zero lose at most two of sixteen digits
WIDE = 256  # narrower rows are folded side by side: reductions along short rows are slow


@dataclass(frozen=True, slots=True)
class Moments:
    """Per-feature count, mean, centred sum of squares and range of the finite values; all (features,)."""

    count: Array
    mean: Array
    scatter: Array
    low: Array
    high: Array
    nonfinite: Array

    @property
    def variance(self) -> Array:
        """Population variance (ddof 0); 0 where nothing was seen."""
        return np.asarray(self.scatter / np.maximum(self.count, 1.0))

    @property
    def sd(self) -> Array:
        """Population standard deviation."""
        return np.asarray(np.sqrt(self.variance))

    @property
    def rms(self) -> Array:
        """Root of the uncentred second moment."""
        return np.asarray(np.sqrt(self.variance + self.mean**2))


def empty(features: int) -> Moments:
    """Return the moments of nothing."""
    zero = np.zeros(features)
    return Moments(zero, zero, zero, np.full(features, np.inf), np.full(features, -np.inf), zero)


def merge(a: Moments, b: Moments) -> Moments:
    """Join two parts (Chan, Golub & LeVeque 1983, eq. 2.1): C = Ca + Cb + d² na nb / n.

    Example:
        >>> left, right = moments(np.array([[1.0], [2.0]])), moments(np.array([[6.0]]))
        >>> float(merge(left, right).mean[0]), float(merge(left, right).scatter[0])
        (3.0, 14.0)
    """
    count = a.count + b.count
    safe = np.maximum(count, 1.0)
    gap = b.mean - a.mean
    return Moments(
        count,
        a.mean + gap * b.count / safe,
        a.scatter + b.scatter + gap**2 * a.count * b.count / safe,
        np.minimum(a.low, b.low),
        np.maximum(a.high, b.high),
        a.nonfinite + b.nonfinite,
    )


def moments(block: Array, pivot: Array | None = None) -> Moments:
    """Return the moments of one block; values that are not finite are counted and left out.

    Args:
        block: (rows, features) or (rows, features, inner), where inner positions are more rows.
        pivot: (features,) values near the mean; taken from the block when absent.

    Returns:
        Its moments in float64.
    """
    features = block.shape[1]
    if block.size == 0:
        return empty(features)
    if pivot is None:
        pivot = _pivot(block)
    with np.errstate(all="ignore"):
        result = _along_inner(block, pivot) if block.ndim == 3 else _along_rows(block, pivot)
    if np.isfinite(result.scatter).all() and np.isfinite(result.low).all() and np.isfinite(result.high).all():
        return result
    return _with_gaps(block, pivot)


def _pivot(block: Array) -> Array:
    """The mean of a few rows where it dwarfs their spread, else 0: no digits are lost there, and no pass is spent."""
    few = np.asarray(block[:: max(1, len(block) // 16)], dtype=np.float64)
    if few.ndim == 3:
        few = few.transpose(0, 2, 1).reshape(-1, few.shape[1])
    count: Any = float(len(few))
    with np.errstate(all="ignore"):
        mean, square = few.sum(axis=0) / count, np.einsum("rf,rf->f", few, few) / count
        if not np.isfinite(square).all():
            filled = np.isfinite(few)
            few, count = np.where(filled, few, 0.0), np.maximum(filled.sum(axis=0), 1)
            mean, square = few.sum(axis=0) / count, np.einsum("rf,rf->f", few, few) / count
        dwarfs = mean**2 > OFFSET * np.maximum(square - mean**2, 0.0)
    return np.asarray(np.where(dwarfs, mean, 0.0)) if dwarfs.any() else np.zeros(len(mean))


def _along_rows(block: Array, pivot: Array) -> Moments:
    """Moments of a (rows, features) block without gaps, worked through in cache-sized strips."""
    rows, features = block.shape
    fold = min(max(1, WIDE // features), rows)
    even = rows - rows % fold
    wide = block[:even].reshape(even // fold, fold * features)
    shift = np.tile(pivot, fold)
    step = max(1, BLOCK // wide.shape[1])
    scratch = np.empty((min(step, len(wide)), wide.shape[1]))
    ones, moved = np.ones(len(scratch)), bool(pivot.any())
    first, second = np.zeros(wide.shape[1]), np.zeros(wide.shape[1])
    low, high = np.full(wide.shape[1], np.inf), np.full(wide.shape[1], -np.inf)
    for start in range(0, len(wide), step):
        strip = wide[start : start + step]
        part = scratch[: len(strip)]
        np.copyto(part, strip)
        if moved:
            part -= shift
        first += ones[: len(strip)] @ part
        np.minimum(low, strip.min(axis=0), out=low)
        np.maximum(high, strip.max(axis=0), out=high)
        second += np.einsum("rf,rf->f", part, part)
    result = _about(
        float(even),
        pivot,
        (first.reshape(fold, features).sum(axis=0), second.reshape(fold, features).sum(axis=0)),
        (low.reshape(fold, features).min(axis=0), high.reshape(fold, features).max(axis=0)),
    )
    return merge(result, _along_rows(block[even:], pivot)) if even < rows else result


def _along_inner(block: Array, pivot: Array) -> Moments:
    """Moments of a (rows, features, inner) block without gaps: images with the channel first."""
    rows, features, inner = block.shape
    first, second = np.zeros(features), np.zeros(features)
    low, high = np.full(features, np.inf), np.full(features, -np.inf)
    step = max(1, BLOCK // max(1, features * inner))
    scratch, moved = np.empty((min(step, rows), features, inner)), bool(pivot.any())
    for start in range(0, rows, step):
        strip = block[start : start + step]
        part = scratch[: len(strip)]
        np.copyto(part, strip)
        if moved:
            part -= pivot[:, None]
        first += part.sum(axis=-1).sum(axis=0)
        second += np.einsum("rfi,rfi->rf", part, part).sum(axis=0)
        np.minimum(low, strip.min(axis=-1).min(axis=0), out=low)
        np.maximum(high, strip.max(axis=-1).max(axis=0), out=high)
    return _about(float(rows * inner), pivot, (first, second), (low, high))


def _about(count: float, pivot: Array, sums: tuple[Array, Array], ends: tuple[Array, Array]) -> Moments:
    """Moments from the sums about a pivot."""
    features = len(pivot)
    offset = sums[0] / count
    scatter = np.maximum(sums[1] - count * offset**2, 0.0)
    exact = np.where(ends[0] == ends[1], 0.0, scatter)  # a constant feature has no rounding to show
    return Moments(np.full(features, count), pivot + offset, exact, *ends, np.zeros(features))


def _with_gaps(block: Array, pivot: Array) -> Moments:
    """Moments of a block that holds NaN or infinities, or whose squares leave float64."""
    axes = (0, 2) if block.ndim == 3 else (0,)
    values = np.asarray(block, dtype=np.float64)
    filled = np.isfinite(values)
    count = filled.sum(axis=axes).astype(np.float64)
    shape = (1, -1, 1) if block.ndim == 3 else (1, -1)
    centred = np.where(filled, values - pivot.reshape(shape), 0.0)
    offset = centred.sum(axis=axes) / np.maximum(count, 1.0)
    low = np.where(filled, values, np.inf).min(axis=axes)
    high = np.where(filled, values, -np.inf).max(axis=axes)
    with np.errstate(over="ignore", invalid="ignore"):
        gap = np.where(filled, centred - offset.reshape(shape), 0.0)
        scatter = np.where(low == high, 0.0, (gap**2).sum(axis=axes))
    missing = (~filled).sum(axis=axes).astype(np.float64)
    return Moments(count, np.where(count > 0, pivot + offset, 0.0), scatter, low, high, missing)


@dataclass(frozen=True, slots=True)
class Scatter:
    """Count, mean (features,) and centred scatter matrix (features, features)."""

    count: float
    mean: Array
    matrix: Array

    @property
    def covariance(self) -> Array:
        """Population covariance."""
        return np.asarray(self.matrix / max(self.count, 1.0))


def scatter(block: Array) -> Scatter:
    """Return count, mean and scatter matrix of one (rows, features) block, two passes in float64."""
    values = np.asarray(block, dtype=np.float64)
    mean = values.mean(axis=0)
    gap = values - mean
    mean = mean + gap.mean(axis=0)  # second look: the first mean carries the rounding of large values
    gap = values - mean
    return Scatter(float(len(values)), mean, gap.T @ gap)


def merge_scatter(a: Scatter, b: Scatter) -> Scatter:
    """Join two parts: C = Ca + Cb + d dᵀ na nb / n (Chan, Golub & LeVeque 1983)."""
    count = a.count + b.count
    gap = b.mean - a.mean
    return Scatter(
        count,
        a.mean + gap * (b.count / count),
        a.matrix + b.matrix + np.outer(gap, gap) * (a.count * b.count / count),
    )


def robust(sample: Array) -> tuple[Array, Array]:
    """Return the median and 1.4826 × the median absolute deviation of each feature.

    The factor makes the second an estimate of the standard deviation for Gaussian values (Hampel 1974).

    Args:
        sample: (rows, features), finite.
    """
    if len(sample) == 0:
        nothing = np.zeros(sample.shape[1])
        return nothing, nothing
    centre = np.median(sample, axis=0)
    return centre, 1.4826 * np.median(np.abs(sample - centre), axis=0)
