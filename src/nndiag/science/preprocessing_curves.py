"""Is one set a logarithm, a power or the negative of the other? Curves without free constants.

Axis names: samples, channels, inner (pixels of one channel).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nndiag.science.drift import two_sample
from nndiag.science.moments import Array

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = 50
APART = 0.2  # KS distance without the curve
NEAR, CHANCE = 0.06, 0.01  # KS distance and adjusted p-value with it
MIDDLE = 0.25  # of the middle spread: how far quartiles may be off before the slow test is not worth its time
EXACT = 1e-4  # of the spread, rows compared one by one
ENOUGH = 0.5  # share of the features that must be apart without the curve
TIES = 10  # values that a feature must have to show a curve

Curve = Callable[[Array], Array]
TINY = 1e-300
#: what people say, the curve, and the range of training values in which it may be meant
CURVES: tuple[tuple[str, Curve, float, float], ...] = (
    ("serving takes log1p, training does not", np.log1p, -0.99, np.inf),
    ("training takes log1p, serving does not", np.expm1, 0.0, 80.0),
    ("serving takes the logarithm, training does not", np.log, TINY, np.inf),
    ("training takes the logarithm, serving does not", np.exp, -np.inf, 80.0),
    ("serving takes log10, training does not", np.log10, TINY, np.inf),
    ("training takes log10, serving does not", lambda x: 10.0**x, -np.inf, 40.0),
    ("serving is in decibels (10 log10), training is not", lambda x: 10 * np.log10(x), TINY, np.inf),
    ("training is in decibels (10 log10), serving is not", lambda x: 10.0 ** (x / 10), -np.inf, 300.0),
    ("serving is in decibels (20 log10), training is not", lambda x: 20 * np.log10(x), TINY, np.inf),
    ("training is in decibels (20 log10), serving is not", lambda x: 10.0 ** (x / 20), -np.inf, 300.0),
    ("serving takes the square root, training does not", np.sqrt, 0.0, np.inf),
    ("training takes the square root, serving does not", np.square, 0.0, 1e9),
    ("serving is linear light, training is gamma-encoded (sRGB)", lambda x: x**2.2, 0.0, 1.0),
    ("serving is gamma-encoded (sRGB), training is linear light", lambda x: x ** (1 / 2.2), 0.0, 1.0),
)


def curve(train: Array, serve: Array) -> str | None:
    """Return what serving does to training's values when that is a well-known curve, else None.

    A curve is told only where serving is apart from training in most features, and is training's distribution in every
    feature once the curve, which has no constant to fit, is applied.

    Args:
        train: (samples, channels, inner), finite.
        serve: (samples, channels, inner), rows of their own or the same ones.
    """
    if min(len(train), len(serve)) < ROWS or train.shape[1:] != serve.shape[1:]:
        return None
    x, y = np.asarray(train, dtype=np.float64), np.asarray(serve, dtype=np.float64)
    candidates = list(_candidates(x))
    if x.shape == y.shape:
        scale = np.maximum(y.std(axis=(0, 2)), 1e-300)[:, None]
        for name, bend in candidates:
            if (np.abs(bend(x) - y) <= EXACT * scale).mean() > 0.999:
                return name
    near = [(name, bend(x)) for name, bend in candidates if _near(bend(x), y)]
    if not near:
        return None
    before = two_sample(_rows(x), _rows(y))
    if ((before.ks >= APART) & (before.adjusted < 1e-6)).mean() < ENOUGH:
        return None
    best, least = None, np.inf
    for name, bent in near:
        after = two_sample(_rows(bent), _rows(y))
        if ((after.ks < NEAR) | (after.adjusted > CHANCE)).all() and after.ks.mean() < min(least, before.ks.mean() / 3):
            best, least = name, float(after.ks.mean())
    return best


def _candidates(x: Array) -> Iterator[tuple[str, Curve]]:
    """The curves that these training values allow."""
    low, high = float(x.min()), float(x.max())
    if min(len(np.unique(x[:, c])) for c in range(x.shape[1])) < TIES:
        return
    for name, bend, lowest, highest in CURVES:
        if low >= lowest and high <= highest:
            yield name, bend
    for top in (1.0, 255.0):
        if low >= 0 and 0.9 * top < high <= top:
            yield f"serving is inverted ({top:g} - x): bright is dark", partial(np.subtract, top)


def _near(bent: Array, y: Array) -> bool:
    """Whether the quartiles of nearly every channel agree."""
    (a, b, c), (d, e, f) = (np.quantile(rows, (0.25, 0.5, 0.75), axis=(0, 2)) for rows in (bent, y))
    width = np.maximum(f - d, 1e-12 * np.maximum(np.abs(e), 1e-300))
    gaps = np.maximum(np.maximum(np.abs(a - d), np.abs(b - e)), np.abs(c - f)) / width
    return bool((gaps <= MIDDLE).mean() > 0.95)


def _rows(rows: Array) -> Array:
    """One number per row and feature, or mean and sd over positions."""
    if rows.shape[2] == 1:
        return rows[:, :, 0]
    return np.concatenate([rows.mean(axis=2), rows.std(axis=2)], axis=1)
