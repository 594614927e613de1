"""What speaks against a map that means and spreads suggest: single wild values, a filler, too few rows.

Axis names: samples, channels, inner (pixels of one channel).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nndiag.science.drift import two_sample

if TYPE_CHECKING:
    from nndiag.science.moments import Array
    from nndiag.science.preprocessing_names import Change

FEW = 20  # serving rows below which spreads say nothing
BEYOND = 3.0  # times the reach of training from its middle
CHANCE = 1e-3  # family-wise
GROWN, MOVED = 1.75, 2.0  # factor of the spread, shift in middle spreads: from here on the middle must follow
FILLED, TIMES = 0.01, 5  # share and number of rows that hold one value which training does not have
FAR, VALUES = 2.0, 10  # widths of training beyond it; values that training has: flags and rare counts do not tell


def supported(train: Array, serve: Array, change: Change) -> Array:
    """Return the channels in which the rows themselves, not only mean and spread, moved as the change says.

    Many rows: one wild value can carry mean and spread, so the middle half must not lie nearer to where it was than to
    where the change would put it. Few rows (fewer than 20): serving lies where training does not, as Kolmogorov's
    distance or half of the rows say.

    Args:
        train: (samples, channels, inner), finite.
        serve: (samples, channels, inner).
        change: The suggested map.

    Returns:
        (channels,) booleans.
    """
    x, y = (np.moveaxis(rows, 1, 2).reshape(-1, rows.shape[1]) for rows in (train[:, list(change.order)], serve))
    x, y = (np.asarray(part[:: max(1, len(part) // 50_000)], dtype=np.float64) for part in (x, y))
    (low, mid, high), (low_y, mid_y, high_y) = (np.quantile(part, (0.25, 0.5, 0.75), axis=0) for part in (x, y))
    if len(serve) < FEW:
        reach = np.abs(x - mid).max(axis=0)
        outside = (np.abs(y - mid) > BEYOND * reach).mean(axis=0) >= 0.5
        return np.asarray(outside | (_distance_p(train, serve, change) < CHANCE))
    width, width_y = high - low, high_y - low_y
    told = (width > 0) & (width_y > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        grown, wanted = np.log(width_y / width), np.log(np.abs(change.slope))
        moved, due = (mid_y - mid) / width, ((change.slope - 1) * mid + change.offset) / width
    wide = np.abs(wanted) > np.log(GROWN)
    stayed = wide & (np.abs(grown) < np.abs(grown - wanted))
    stayed |= ~wide & (np.abs(due) > MOVED) & (np.abs(moved) < np.abs(moved - due))
    return np.asarray(~told | ~stayed)


def _distance_p(train: Array, serve: Array, change: Change) -> Array:
    """Holm-adjusted p-values of the row means of each channel."""
    return two_sample(train[:, list(change.order)].mean(axis=2), serve.mean(axis=2)).adjusted


def filler(train: Array, serve: Array) -> tuple[int, float, float] | None:
    """Return (feature, value, share) of a value far outside training that many serving rows hold, else None.

    That is how -999 or an unfilled 0 looks after scaling. Only for tables (inner of one).
    """
    if train.shape[2] != 1 or len(serve) < FEW:
        return None
    best: tuple[int, float, float] | None = None
    low, high = train.min(axis=(0, 2)), train.max(axis=(0, 2))
    for c in np.flatnonzero(high > low):
        values, counts = np.unique(serve[:, c, 0], return_counts=True)
        value, share = float(values[counts.argmax()]), float(counts.max() / len(serve))
        width = float(high[c] - low[c])
        rest = serve[serve[:, c, 0] != value, c, 0]
        far = max(low[c] - value, value - high[c]) > FAR * width
        if not far or counts.max() < TIMES or share < FILLED or not len(rest) or len(np.unique(train[:, c])) < VALUES:
            continue
        usual = ((rest >= low[c] - width) & (rest <= high[c] + width)).mean() > 0.99
        if usual and (best is None or share > best[2]):
            best = (int(c), value, share)
    return best
