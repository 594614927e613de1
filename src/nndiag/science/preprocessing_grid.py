"""Are values rounded to a grid, and do two sets share it?

Raw values are often rounded (5.1 cm, 3 words). An affine preparation moves the grid but keeps it: (k q - m) / s has the
step q / s. Serving values on training's own grid were prepared like training's, however far they have drifted; values
on another grid were not. Axis names: samples, channels, inner (pixels of one channel).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nndiag.science.moments import Array

ROUNDING = 4e-7  # of the largest value: a few units in the last place of float32
COARSE = 50.0  # roundings that a step must hold, so that hitting it is no chance
SAME, PARTLY, OTHER = 0.98, 0.5, 0.2  # share of the values on the grid: typical, finer digits in some rows, chance
MOST = 4000  # values looked at per channel
CHANNELS = 256  # looked at
NATURAL = (1.0, 0.5, 0.25, 0.2)  # digits of the steps to which people round, at any power of ten


@dataclass(frozen=True, slots=True)
class Grid:
    """origin + k · step for whole k."""

    origin: float
    step: float


def grid_of(values: Array) -> Grid | None:
    """Return the grid that all values lie on, None where there is none that is coarse enough to mean something.

    Args:
        values: (n,), finite.
    """
    seen = np.unique(np.asarray(values, dtype=np.float64))
    if len(seen) < 2:
        return None
    slack = ROUNDING * max(float(np.abs(seen).max()), 1e-300)
    keep = np.concatenate([[True], np.diff(seen) > 4 * slack])  # one value that was rounded twice
    seen = seen[keep]
    gaps = np.diff(seen)
    if len(gaps) < 1:
        return None
    for part in (1, 2, 3):
        step = float(gaps.min()) / part
        if step < COARSE * slack:
            return None
        whole = np.concatenate([[0.0], np.cumsum(np.round(gaps / step))])
        fitted = np.polyfit(whole, seen, 1) if len(seen) > 2 else np.array([step, seen[0]])
        if np.abs(seen - np.polyval(fitted, whole)).max() <= 2 * slack:
            return Grid(float(fitted[1]), float(fitted[0]))
    return None


def share_on(values: Array, grid: Grid) -> float:
    """Return the share of values on the grid; nan where rounding alone would hide the answer."""
    x = np.asarray(values, dtype=np.float64)
    away = np.abs(x - grid.origin)
    slack = 4 * ROUNDING * np.maximum(np.abs(x), abs(grid.origin)) + 1e-6 * away  # the step's own error
    known = slack < 0.05 * grid.step
    if known.mean() < 0.5:
        return float("nan")
    steps = away[known] / grid.step
    return float((np.abs(steps - np.round(steps)) * grid.step <= slack[known]).mean())


@dataclass(frozen=True, slots=True)
class Kinship:
    """What the grids of two sets say: how many channels have one, on which of them serving is off it."""

    told: int  # channels whose training values lie on a grid
    natural: bool  # most of these grids are those that people round to: training is raw
    same: bool  # serving lies on it throughout
    other: bool  # serving is off it nearly everywhere
    raw: bool  # and on a grid that people round to
    twice: bool  # or on the one that the same standardisation, applied again, leads to


def kinship(train: Array, serve: Array) -> Kinship:
    """Compare the grids of two sets, channel by channel.

    Args:
        train: (samples, channels, inner), finite.
        serve: (samples, channels, inner), finite.
    """
    on: list[float] = []
    natural = raw = twice = hidden = 0
    for c in range(min(train.shape[1], CHANNELS)):
        x, y = (_some(rows[:, c]) for rows in (train, serve))
        mine = grid_of(x)
        if mine is None or y.min() == y.max():
            continue
        share = share_on(y, mine)
        if not np.isfinite(share):
            hidden += 1
            continue
        on.append(share)
        natural += _natural(mine.step)
        theirs = grid_of(y) if share < OTHER else None
        if theirs is not None:
            raw += _natural(theirs.step)
            twice += _natural(mine.step**2 / theirs.step)  # q/s squared over q/s² is q again
    if not on:
        return Kinship(0, natural=False, same=False, other=False, raw=False, twice=False)
    shares = np.array(on)
    off, half = int((shares < OTHER).sum()), len(on) / 2
    same = hidden == 0 and np.median(shares) >= SAME and shares.min() >= PARTLY
    return Kinship(
        len(on),
        natural=natural > half,
        same=bool(same),
        other=off >= 0.8 * len(on),
        raw=raw > half >= twice,
        twice=twice > half,
    )


def _some(rows: Array) -> Array:
    flat = rows.reshape(-1)
    return np.asarray(flat[:: max(1, len(flat) // MOST)], dtype=np.float64)


def _natural(step: float) -> bool:
    """Whether people round to such steps: 1, 0.5, 0.25 or 0.2 times a power of ten."""
    powers = np.log10(step / np.array(NATURAL))
    return bool((np.abs(powers - np.round(powers)) < 1e-4).any())
