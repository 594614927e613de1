"""Traces that per-sample statistics and subtracted mean images leave.

Axis names: samples, channels, inner (pixels of one channel).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nndiag.science.moments import Array

WHOLE_ROWS = 0.99  # share of the rows that must agree


def per_sample(rows: Array) -> bool:
    """Whether every row has mean 0 and sd 1 on its own, over everything or within each channel."""
    x = np.asarray(rows, dtype=np.float64)
    if x[0].size < 4 or len(x) < 3:
        return False
    for axes in ((1, 2), (2,)):
        if x.shape[2] == 1 and axes == (2,):
            continue
        mean, sd = x.mean(axis=axes), x.std(axis=axes)
        if (np.abs(mean) < 2e-3).mean() > WHOLE_ROWS and (np.abs(sd - 1) < 2e-2).mean() > WHOLE_ROWS:
            return True
    return False


def position_structure(rows: Array) -> float:
    """Return the variance of the mean image over positions in units of what sampling alone would leave (1).

    A subtracted mean image leaves 0 to 1, a subtracted mean pixel leaves the mean image's own structure.
    """
    x = np.asarray(rows, dtype=np.float64)
    means = x.mean(axis=0)  # (channels, inner)
    noise = x.var(axis=0).mean() / len(x)
    return float(means.var(axis=1).mean() / noise) if noise > 0 else 0.0


def one_image_added(train: Array, serve: Array) -> bool:
    """Whether serving rows are the training rows plus one image that is the same for all and differs by position."""
    if train.shape != serve.shape or len(train) < 3 or train.shape[2] < 4:
        return False
    gap = np.asarray(serve, dtype=np.float64) - train
    image = gap.mean(axis=0)
    grain = 1e-4 * max(float(np.std(train)), 1e-30)
    return bool((np.abs(gap - image) <= grain).all() and (np.ptp(image, axis=1) > 500 * grain).any())
