"""How well does an affine map explain two samples, and what is it called when no constants are known?

Means and spreads give a map up to sampling error alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nndiag.science.preprocessing_names import Change, Summary, pooled, standardised

if TYPE_CHECKING:
    from nndiag.science.moments import Array

EXACT = 2e-3  # relative agreement of an exact slope or offset with a named one
ERRORS = 4.0  # standard errors of slack
SLACK = 0.03  # natural difference between two honest samples, in sd and in log sd
FAR = (3.0, np.log(3.0))  # in sd and in log sd: beyond what drift does to most channels at once
DRIFT = (0.5, 0.4)  # shift in sd and change of log sd that ordinary drift may show


def _gaps(change: Change, before: Summary, after: Summary) -> tuple[Array, Array, Array, Array]:
    """Distance in mean (sd) and in log sd, with their standard errors."""
    order = list(change.order)
    spread = np.maximum(np.abs(change.slope) * before.sd[order], 1e-30)
    shift = (after.mean - change.slope * before.mean[order] - change.offset) / spread
    shift_se = np.hypot(change.slope * before.mean_se[order], after.mean_se) / spread
    both = (before.sd[order] > 0) & (after.sd > 0)
    grown = np.where(both, np.log(np.where(both, after.sd, 1.0) / np.where(both, spread, 1.0)), 0.0)
    moved = np.where(before.sd[order] > 0, shift, np.where(np.abs(shift) > 1e-3, 1e6, 0.0))
    return moved, shift_se, grown, np.hypot(before.log_sd_se[order], after.log_sd_se)


def fits(change: Change, before: Summary, after: Summary, slack: tuple[float, float] = (SLACK, SLACK)) -> bool:
    """Whether means and spreads agree with the change, errors and natural differences granted."""
    shift, shift_se, grown, grown_se = _gaps(change, before, after)
    inside = (np.abs(shift) <= ERRORS * shift_se + slack[0]) & (np.abs(grown) <= ERRORS * grown_se + slack[1])
    return bool(inside.all())


def chi_square(change: Change, before: Summary, after: Summary) -> float:
    """Sum of squared standardised distances, with one per cent of an sd as a floor for the errors."""
    shift, shift_se, grown, grown_se = _gaps(change, before, after)
    return float((shift**2 / (shift_se**2 + 1e-4) + grown**2 / (grown_se**2 + 1e-4)).sum())


def far(change: Change, before: Summary) -> bool:
    """Whether most channels moved by three standard deviations or grew threefold: no group or season does that."""
    sd = np.maximum(before.sd[list(change.order)], 1e-30)
    moved = np.abs(change.offset + (change.slope - 1) * before.mean[list(change.order)]) / sd
    grown = np.abs(np.log(np.maximum(np.abs(change.slope), 1e-300)))
    return bool(((moved > FAR[0]) | (grown > FAR[1])).mean() > 0.5)


def estimated(before: Summary, after: Summary) -> Change:
    """A map without fixed constants, described where possible."""
    both = (before.sd > 0) & (after.sd > 0)
    slope = np.where(both, after.sd / np.where(both, before.sd, 1.0), 1.0)
    offset = after.mean - slope * before.mean
    order = tuple(range(len(slope)))
    near = np.hypot(before.log_sd_se, after.log_sd_se)
    if both.any() and (np.abs(np.log(slope[both])) <= ERRORS * near[both] + SLACK).all():
        slope = np.ones_like(slope)
        offset = after.mean - before.mean
    shift, shift_se, grown, grown_se = _gaps(
        Change("", np.ones_like(slope), np.zeros_like(slope), order), before, after
    )
    kept = (np.abs(shift) <= ERRORS * shift_se + DRIFT[0]) & (np.abs(grown) <= ERRORS * grown_se + DRIFT[1])
    if len(slope) > 2 and kept.mean() >= 0.5:
        return Change("", np.where(kept, 1.0, slope), np.where(kept, 0.0, offset), order)
    shared = Change("", np.full_like(slope, np.median(slope)), np.zeros_like(slope), order)
    if fits(shared, before, after, (0.1, 0.1)):
        return replace(shared, name=f"serving is about {shared.slope[0]:.3g} times training")
    moved = Change("", np.ones_like(slope), np.full_like(slope, np.median(offset)), order)
    if fits(moved, before, after, (0.1, 0.1)):
        return replace(moved, name=f"serving is shifted by about {moved.offset[0]:+.3g}")
    return Change(described(slope, offset, before, after), slope, offset, order)


def described(  # noqa: PLR0911 - one line for each name
    slope: Array, offset: Array, train: Summary, serve: Summary | None = None
) -> str:
    """Words for a map without a name, or nothing; with `serve` the map is known up to the errors of both."""
    level = np.abs(slope) * np.maximum(train.sd, 1e-30)
    kept = (np.abs(slope - 1) <= EXACT) & (np.abs(offset) <= EXACT * level)
    if len(slope) > 2 and kept.mean() >= 0.5:
        return ""  # some features only: their names say more
    if (np.abs(slope - 1) < EXACT).all():
        if (np.abs(offset - offset[0]) <= EXACT * (level + abs(offset[0]))).all():
            return f"serving is shifted by {offset[0]:+.4g}"
        return "another mean is subtracted in serving"
    same = (np.abs(slope / slope[0] - 1) < EXACT).all()
    if same and (np.abs(offset) <= EXACT * level).all():
        return f"serving is {slope[0]:.4g} times training"
    alike = same and (np.abs(offset - offset[0]) <= EXACT * (level + abs(offset[0]))).all()
    if standardised(train) or (alike and standardised(pooled(train))):
        moved = np.abs(offset) > 0.2 * level
        back = moved.any() and (offset[moved] < 0).mean() > 0.8  # (z - m)/s of positive raw features lies below zero
        return "training is standardised, serving is standardised twice" if back else "serving is not standardised"
    varying = train.sd > 1e-8
    away, grown = np.abs(offset + slope * train.mean)[varying], np.abs(level - 1)[varying]
    slack = (ERRORS * serve.mean_se[varying], ERRORS * serve.log_sd_se[varying]) if serve is not None else (0.0, 0.0)
    if (away < 0.02 + slack[0]).all() and (grown < 0.02 + slack[1]).all():
        return "serving is standardised, training is not"
    return ""
