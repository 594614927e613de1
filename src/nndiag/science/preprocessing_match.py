"""Do two sets come from one pipeline? If not: which map leads from one to the other, as far as the numbers tell.

Axis names: samples, channels, inner (pixels of one channel). Rows compared one by one give the map to many digits;
two lattices of 8-bit images give it exactly; means and spreads alone give it up to sampling error, and then a map is
only named when staying as it is can be ruled out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nndiag.science.drift import affine_paired
from nndiag.science.preprocessing import TURNED, recognise
from nndiag.science.preprocessing_names import (
    COMMON,
    Change,
    Summary,
    between,
    in_context,
    pairs,
    part,
    standardised,
    summarise,
    swap_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.science.moments import Array

ALIKE = 0.999  # r² of rows that are the same rows
EXACT = 2e-3  # relative agreement of an exact slope or offset with a named one
ERRORS = 4.0  # standard errors of slack
SLACK = 0.03  # natural difference between two honest samples, in sd and in log sd
DRIFT = (0.5, 0.4)  # shift in sd and change of log sd that ordinary drift may show
CLEAR, FIT = 60.0, 25.0  # chi-square of "unchanged" and of the swap, six degrees of freedom


def compare(train: Array, serve: Array, *, images: bool) -> Change | None:
    """Return the change from training to serving, kind "identity" when there is none, None when nothing affine fits.

    Args:
        train: (samples, channels, inner), finite.
        serve: (samples, channels, inner); channels agree.
        images: Whether the channels are those of pictures, so that published constants may be meant.
    """
    return paired(train, serve, images=images) or unpaired(train, serve, images=images)


def paired(train: Array, serve: Array, *, images: bool) -> Change | None:
    """Return the change when both sets hold the same rows in the same order, else None."""
    if train.shape != serve.shape or len(train) < 3:
        return None
    x, y = _pixels(train), _pixels(serve)
    channels = x.shape[1]
    order = _partners(x, y)
    if order is None:
        return None
    fit = affine_paired(x[:, list(order)], y)
    constant = ~np.isfinite(fit.slope)
    slope = np.where(constant, 1.0, fit.slope)
    offset = np.where(constant, y.mean(axis=0) - x[:, list(order)].mean(axis=0), fit.offset)
    seen = Change("", slope, offset, order, "map", exact=True)
    return named(seen, summarise(train), images=images, channels=channels)


def _pixels(rows: Array, limit: int = 200_000) -> Array:
    """(samples · inner, channels), thinned to a bounded number of rows."""
    flat = np.moveaxis(rows, 1, 2).reshape(-1, rows.shape[1])
    return np.asarray(flat[:: max(1, len(flat) // limit)], dtype=np.float64)


def _partners(x: Array, y: Array) -> tuple[int, ...] | None:
    """For each serving channel the training channel it is an affine function of; None when one has none."""
    channels = x.shape[1]
    fixed = (x.std(axis=0) <= 1e-12 * np.abs(x).max(axis=0)) & (y.std(axis=0) <= 1e-12 * np.abs(y).max(axis=0))
    own = np.nan_to_num(affine_paired(x, y).r2)
    good = (own >= ALIKE) | fixed
    if good.all():
        return None if fixed.all() else tuple(range(channels))
    if channels > 256:
        return None
    order = []
    for c in range(channels):
        if good[c]:
            order.append(c)
            continue
        others = np.nan_to_num(affine_paired(x, np.repeat(y[:, c : c + 1], channels, axis=1)).r2)
        if others.max() < ALIKE:
            return None
        order.append(int(others.argmax()))
    return tuple(order) if len(set(order)) == channels else None


def named(seen: Change, train: Summary, *, images: bool, channels: int) -> Change:
    """Return the exactly known change under the name people give it."""
    scale = np.maximum(np.abs(seen.slope) * train.sd[list(seen.order)], 1e-30)
    straight = seen.order == tuple(range(channels))

    level = train.mean[list(seen.order)]
    fixed = train.sd[list(seen.order)] <= 1e-9 * np.maximum(np.abs(level), 1e-30)  # one value: any slope fits it

    def agrees(other: Change) -> bool:
        near = np.abs(seen.slope / other.slope - 1) <= EXACT
        straight = near & (np.abs(seen.offset - other.offset) <= EXACT * (scale + np.abs(other.offset)))
        wanted = other.slope * level + other.offset
        lands = np.abs(seen.slope * level + seen.offset - wanted) <= EXACT * np.maximum(np.abs(wanted), 1e-9)
        return bool(np.where(fixed, lands, straight).all())

    one, zero = np.ones(channels), np.zeros(channels)
    if agrees(replace(seen, slope=one, offset=zero)):
        kind = "identity" if straight else "swap"
        return replace(seen, name=swap_name(seen.order) if kind == "swap" else "the same values", kind=kind)
    if not straight:
        return replace(seen, name=swap_name(seen.order), kind="swap")
    candidates: list[Change] = [*_simple(channels)]
    candidates += pairs(channels, train) if images and channels in (1, 3) else ()
    for candidate in candidates:
        if agrees(candidate):
            return replace(candidate, name=in_context(candidate.name, train), exact=True)
    varying = ~fixed if not fixed.all() else fixed
    return replace(seen, name=_described(seen.slope[varying], seen.offset[varying], part(train, varying)))


def _simple(channels: int) -> Iterator[Change]:
    """The maps that treat every channel alike."""
    for slope, offset, name in COMMON:
        yield Change(name, np.full(channels, slope), np.full(channels, offset), tuple(range(channels)))


def _described(slope: Array, offset: Array, train: Summary) -> str:  # noqa: PLR0911 - one line for each name
    """Words for a map without a name, or nothing."""
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
    if standardised(train):
        moved = np.abs(offset) > 0.2 * level
        back = moved.any() and (offset[moved] < 0).mean() > 0.8  # (z - m)/s of positive raw features lies below zero
        return "training is standardised, serving is standardised twice" if back else "serving is not standardised"
    varying = train.sd > 1e-8
    away = np.abs(offset + slope * train.mean)[varying]
    if (away < 0.02).all() and (np.abs(level - 1) < 0.02)[varying].all():
        return "serving is standardised, training is not"
    return ""


def unpaired(train: Array, serve: Array, *, images: bool) -> Change | None:
    """Return the change that lattices, means and spreads show; None when no affine map explains the serving set."""
    channels = train.shape[1]
    before, after = summarise(train), summarise(serve)
    published = images and channels in (1, 3)
    exact: Change | None = _by_lattice(train, serve) if published else None
    unchanged = Change("", np.ones(channels), np.zeros(channels), tuple(range(channels)), "identity")
    if exact is None and _fits(unchanged, before, after):
        exact = unchanged
    if exact is None and images and channels == 3:
        exact = _turned(before, after)
    ends = _by_endpoints(train, serve, before, after) if exact is None else None
    if ends is not None:
        exact = named(ends, before, images=images, channels=channels)
    if exact is None and _fits(unchanged, before, after, DRIFT):
        exact = unchanged
    if exact is not None:
        return exact
    candidates = [*_simple(channels), *(pairs(channels, before) if published else ())]
    fitting = [one for one in candidates if _fits(one, before, after, (0.1, 0.1))]
    if not fitting:
        return _estimated(before, after)
    scores = [_chi_square(one, before, after) for one in fitting]
    best: Change = next(
        one for one, score in zip(fitting, scores, strict=True) if score <= min(scores) + 9
    )  # 255, not 256
    return replace(best, name=in_context(best.name, before), exact=False)


def _by_lattice(train: Array, serve: Array) -> Change | None:
    """The change between two recognised 8-bit pipelines, channel order included."""
    x, y = _pixels(train), _pixels(serve)
    channels = x.shape[1]
    first, second = recognise(x), recognise(y)
    if first is None or second is None:
        return None
    change = between(first, second, channels)
    if channels == 3:
        inner = [
            np.moveaxis(one.invert(np.moveaxis(rows, 1, 2), 3), 2, 1) for one, rows in ((first, train), (second, serve))
        ]
        turned = _turned(summarise(inner[0]), summarise(inner[1]))
        if turned is not None:
            return replace(turned, exact=False)
        reverse = second.name == f"{first.name} {TURNED}"
        if reverse and _turned(summarise(train), summarise(serve)) is not None:
            return _turned(summarise(train), summarise(serve))
    return change


def _turned(before: Summary, after: Summary) -> Change | None:
    """Reversed channels, when they fit and the order as it is does not."""
    if min(before.rows, after.rows) < 30:
        return None
    one, zero = np.ones(3), np.zeros(3)
    kept = Change("", one, zero, (0, 1, 2))
    turned = Change(swap_name((2, 1, 0)), one, zero, (2, 1, 0), "swap")
    apart, close = _chi_square(kept, before, after), _chi_square(turned, before, after)
    return turned if apart > CLEAR and close < FIT else None


def _by_endpoints(train: Array, serve: Array, before: Summary, after: Summary) -> Change | None:
    """One map for all channels, read off the ends of saturated values (0 and 255 occur again and again)."""
    if not (_saturated(train, before) and _saturated(serve, after)):
        return None
    width = before.high - before.low
    if (width <= 0).any() or np.ptp(width) > 1e-6 * width.max() or np.ptp(before.low) > 1e-6 * width.max():
        return None
    slope = (after.high - after.low) / width
    offset = after.low - slope * before.low
    level = (after.high - after.low).max()
    if np.ptp(slope) > 1e-4 * abs(slope[0]) or np.ptp(offset) > 1e-4 * level:
        return None
    change = Change("", slope, offset, tuple(range(len(slope))), "map")
    if np.allclose(slope, 1, atol=1e-4) and (np.abs(offset) <= 1e-4 * level).all():
        return None
    return change if _fits(change, before, after, (0.15, 0.15)) else None


def _saturated(rows: Array, ends: Summary) -> bool:
    """Whether both ends of every channel occur three times or more."""
    low = (rows == ends.low[None, :, None]).sum(axis=(0, 2))
    high = (rows == ends.high[None, :, None]).sum(axis=(0, 2))
    return bool((low >= 3).all() and (high >= 3).all())


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


def _fits(change: Change, before: Summary, after: Summary, slack: tuple[float, float] = (SLACK, SLACK)) -> bool:
    """Whether means and spreads agree with the change, errors and natural differences granted."""
    shift, shift_se, grown, grown_se = _gaps(change, before, after)
    inside = (np.abs(shift) <= ERRORS * shift_se + slack[0]) & (np.abs(grown) <= ERRORS * grown_se + slack[1])
    return bool(inside.all())


def _chi_square(change: Change, before: Summary, after: Summary) -> float:
    """Sum of squared standardised distances, with one per cent of an sd as a floor for the errors."""
    shift, shift_se, grown, grown_se = _gaps(change, before, after)
    return float((shift**2 / (shift_se**2 + 1e-4) + grown**2 / (grown_se**2 + 1e-4)).sum())


def _estimated(before: Summary, after: Summary) -> Change | None:
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
    if _fits(shared, before, after, (0.1, 0.1)):
        return replace(shared, name=f"serving is about {shared.slope[0]:.3g} times training")
    moved = Change("", np.ones_like(slope), np.full_like(slope, np.median(offset)), order)
    if _fits(moved, before, after, (0.1, 0.1)):
        return replace(moved, name=f"serving is shifted by about {moved.offset[0]:+.3g}")
    return Change(_described(slope, offset, before), slope, offset, order)


def undo(serve: Array, change: Change) -> Array:
    """Return serving values (samples, channels, …) as training's pipeline would have made them."""
    shape = (1, -1) + (1,) * (serve.ndim - 2)
    back = (np.asarray(serve, dtype=np.float64) - change.offset.reshape(shape)) / change.slope.reshape(shape)
    return np.asarray(back[:, np.argsort(change.order)])
