"""Has the distribution moved? Affine change with its error, PSI and KS against their own null, leaked statistics.

Axis names: samples (n for training, m for serving), features (d). Rows must be independent: for images give one
number per image and channel, not pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special  # scipy.stats takes a second to import

if TYPE_CHECKING:
    from nndiag.science.moments import Array

BINS = 10
RESOLUTION = 1e-5  # of the spread: float32 rounding is no drift


@dataclass(frozen=True, slots=True)
class Affine:
    """serve ≈ slope · train + offset, per feature, with standard errors; r2 says how well that holds."""

    slope: Array
    offset: Array
    slope_se: Array
    offset_se: Array
    r2: Array


@dataclass(frozen=True, slots=True)
class Drift:
    """Per feature: PSI (nats), KS distance D, their p-values, and the Holm-adjusted joint p-value."""

    psi: Array
    ks: Array
    psi_p: Array
    ks_p: Array
    adjusted: Array


def affine_paired(train: Array, serve: Array) -> Affine:
    """Least squares of serve on train, row by row; a constant feature has slope nan.

    Args:
        train: (samples, features).
        serve: (samples, features), the same rows in the same order.
    """
    x, y = np.asarray(train, dtype=np.float64), np.asarray(serve, dtype=np.float64)
    n = len(x)
    mx, my = x.mean(axis=0), y.mean(axis=0)
    sxx, sxy = ((x - mx) ** 2).sum(axis=0), ((x - mx) * (y - my)).sum(axis=0)
    syy = ((y - my) ** 2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = sxy / sxx
        r2 = np.where(syy > 0, sxy**2 / (sxx * syy), np.nan)
        noise = np.maximum(syy - slope * sxy, 0.0) / max(n - 2, 1)
        slope_se = np.sqrt(noise / sxx)
        offset_se = np.sqrt(noise * (1 / n + mx**2 / sxx))
    return Affine(slope, my - slope * mx, slope_se, offset_se, r2)


def affine_unpaired(train: Array, serve: Array) -> Affine:
    """Match mean and sd of two independent samples: a = sd_s / sd_t, b = m_s - a m_t.

    The relative standard error of a is √((κ-1)/4 (1/n + 1/m)) (delta method, κ the kurtosis); r2 is that of the
    quantile-quantile line, which says whether an affine map explains the change at all.
    """
    x, y = np.asarray(train, dtype=np.float64), np.asarray(serve, dtype=np.float64)
    n, m = len(x), len(y)
    mx, my, sx, sy = x.mean(axis=0), y.mean(axis=0), x.std(axis=0), y.std(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = sy / sx
        kurtosis = ((x - mx) ** 4).mean(axis=0) / sx**4
        relative = np.sqrt(np.maximum(kurtosis - 1, 0) / 4 * (1 / n + 1 / m))
        offset = my - slope * mx
        offset_se = np.sqrt(sy**2 / m + (slope * sx) ** 2 / n + (mx * slope * relative) ** 2)
        slope_se = slope * relative
    grid = np.linspace(0.01, 0.99, 99)
    qx, qy = np.quantile(x, grid, axis=0), np.quantile(y, grid, axis=0)
    line = affine_paired(qx, qy)
    return Affine(slope, offset, slope_se, offset_se, line.r2)


def psi(train: Array, serve: Array, bins: int = BINS) -> tuple[float, float]:
    """Return the population stability index and its p-value.

    Bins are the training quantiles (ties merged), counts smoothed by one half. Without drift
    PSI ~ (1/n + 1/m) χ²(bins - 1) (Yurdakul & Naranjo 2020): the usual alarm at 0.1 means nothing for small samples.

    Args:
        train: (n,) values.
        serve: (m,) values.
        bins: Wanted number of quantile bins.

    Returns:
        PSI in nats, p-value.
    """
    edges = np.unique(np.quantile(train, np.linspace(0, 1, bins + 1)[1:-1]))
    width = len(edges) + 1
    if width < 2:
        return 0.0, 1.0
    count_t = np.bincount(np.searchsorted(edges, train, side="left"), minlength=width)
    count_s = np.bincount(np.searchsorted(edges, serve, side="left"), minlength=width)
    used = (count_t + count_s) > 0
    if used.sum() < 2:
        return 0.0, 1.0
    p = (count_t[used] + 0.5) / (len(train) + 0.5 * used.sum())
    q = (count_s[used] + 0.5) / (len(serve) + 0.5 * used.sum())
    value = float(((q - p) * np.log(q / p)).sum())
    return value, float(special.chdtrc(int(used.sum()) - 1, value / (1 / len(train) + 1 / len(serve))))


def holm(p: Array) -> Array:
    """Return Holm's step-down adjusted p-values (Holm 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def two_sample(train: Array, serve: Array) -> Drift:
    """Compare every feature of two independent samples by PSI and Kolmogorov-Smirnov.

    Values within 1e-5 of the training spread of a training value count as that value: equal data that went through
    float32 differ in the last bit, and KS on ties would take that for drift.

    Args:
        train: (n, features), finite.
        serve: (m, features), finite.
    """
    features = train.shape[1]
    out = np.ones((4, features))
    for j in range(features):
        x, y = np.asarray(train[:, j], dtype=np.float64), np.asarray(serve[:, j], dtype=np.float64)
        grain = RESOLUTION * max(float(x.std()), float(np.abs(x).max(initial=0.0)) * 1e-2, 1e-300)
        x, y = _snapped(x, x, grain), _snapped(y, x, grain)
        out[0, j], out[2, j] = psi(x, y)
        out[1, j], out[3, j] = _kolmogorov(x, y)
    joint = np.minimum(1.0, 2 * np.minimum(out[2], out[3]))
    return Drift(out[0], out[1], out[2], out[3], holm(joint))


def _snapped(values: Array, onto: Array, grain: float) -> Array:
    """Move each value to the next one of `onto` above it less `grain`, when that is within 2 `grain`."""
    ladder = np.sort(onto)
    step = ladder[np.minimum(np.searchsorted(ladder, values - grain), len(ladder) - 1)]
    return np.where(np.abs(step - values) <= grain, step, values)


def _kolmogorov(x: Array, y: Array) -> tuple[float, float]:
    """Distance D and its asymptotic p-value (conservative with ties)."""
    x, y = np.sort(x), np.sort(y)
    both = np.concatenate([x, y])
    gap = np.searchsorted(x, both, side="right") / len(x) - np.searchsorted(y, both, side="right") / len(y)
    distance = float(np.abs(gap).max())
    effective = math.sqrt(len(x) * len(y) / (len(x) + len(y)))
    return distance, float(special.kolmogorov(distance * effective))


def too_close(train: Array, serve: Array) -> tuple[float, float]:
    """Return T = Σ z̄² / (1/m + 1/n) over the features and the chance of so small a value.

    z̄ is the serving mean in training standard deviations. Statistics fitted on the training part alone leave
    T ~ χ²(d) for independent features; statistics fitted on each part leave T = 0.

    Args:
        train: (n, features).
        serve: (m, features).
    """
    sd = train.std(axis=0)
    kept = sd > 0
    if not kept.any():
        return math.nan, 1.0
    shift = (serve.mean(axis=0) - train.mean(axis=0))[kept] / sd[kept]
    value = float((shift**2).sum() / (1 / len(train) + 1 / len(serve)))
    return value, float(special.chdtr(int(kept.sum()), value))
