"""Do two sets come from one pipeline? If not: which map leads from one to the other, as far as the numbers tell.

Axis names: samples, channels, inner (pixels of one channel). Rows compared one by one give the map to many digits;
two lattices of 8-bit images give it exactly; means and spreads alone give it up to sampling error, and then a map is
only named when staying as it is can be ruled out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nndiag.science.drift import affine_paired, affine_unpaired
from nndiag.science.preprocessing import TURNED, recognise
from nndiag.science.preprocessing_fit import DRIFT, EXACT, chi_square, described, estimated, far, fits
from nndiag.science.preprocessing_grid import kinship
from nndiag.science.preprocessing_names import (
    COMMON,
    Change,
    Summary,
    between,
    in_context,
    pairs,
    part,
    possible,
    standardised,
    summarise,
    swap_name,
)
from nndiag.science.preprocessing_order import order_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.science.moments import Array
    from nndiag.science.preprocessing_grid import Kinship

ALIKE = 0.999  # r² of rows that are the same rows
AGAIN, SPREAD, STRAIGHT = 1.5, 0.2, 0.98  # sd, log sd, r² of quantiles: a second z-score of positive features
OUTSIDE = 0.2  # share of pixels beyond the possible
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
    return replace(seen, name=described(seen.slope[varying], seen.offset[varying], part(train, varying)))


def _simple(channels: int) -> Iterator[Change]:
    """The maps that treat every channel alike."""
    for slope, offset, name in COMMON:
        yield Change(name, np.full(channels, slope), np.full(channels, offset), tuple(range(channels)))


def unpaired(train: Array, serve: Array, *, images: bool) -> Change | None:
    """Return the change that lattices, means and spreads show; None when no affine map explains the serving set."""
    channels = train.shape[1]
    before, after = summarise(train), summarise(serve)
    published = images and channels in (1, 3)
    exact: Change | None = _by_lattice(train, serve) if published else None
    unchanged = Change("", np.ones(channels), np.zeros(channels), tuple(range(channels)), "identity")
    if images and channels == 3 and (exact is None or exact.kind == "identity"):
        exact = _turned(before, after) or _turned_inside(train, serve) or exact
    if exact is None and fits(unchanged, before, after):
        exact = unchanged
    ends = _by_endpoints(train, serve, before, after) if exact is None else None
    if ends is not None:
        exact = named(ends, before, images=images, channels=channels)
    if exact is None and fits(unchanged, before, after, DRIFT):
        exact = unchanged
    if exact is not None:
        return exact
    kin = kinship(train, serve)
    if kin.same and not kin.natural and standardised(before):
        return unchanged  # the very grid that training's preparation left: what moved are the data
    again = kin.other and kin.twice and not kin.natural
    simple = (one for one in _simple(channels) if possible(one, before))
    candidates = [] if again else [*simple, *(pairs(channels, before, recognise(_pixels(train))) if published else ())]
    fitting = [one for one in candidates if fits(one, before, after, (0.1, 0.1))]
    if not fitting:
        guess = estimated(before, after)
        if kin.told == 0 and "twice" in guess.name and _again(guess, before, train, serve):
            return guess
        if images and _leaves_range(train, serve, before):
            return guess
        return _vouched(guess, kin, before)
    scores = [chi_square(one, before, after) for one in fitting]
    best: Change = next(
        one for one, score in zip(fitting, scores, strict=True) if score <= min(scores) + 9
    )  # 255, not 256
    return replace(best, name=in_context(best.name, before), exact=False)


def _vouched(guess: Change, kin: Kinship, before: Summary) -> Change:
    """The guess, named only where its size or the grids of the values rule out that the data just drifted."""
    if kin.other and kin.twice and not kin.natural:
        return replace(guess, name="training is standardised, serving is standardised twice")
    if kin.other and kin.raw and not kin.natural:
        what = "standardised" if standardised(before) else "scaled, as training is"
        return replace(guess, name=f"serving is not {what}")
    return guess if far(guess, before) else replace(guess, name="")


def _again(guess: Change, before: Summary, train: Array, serve: Array) -> bool:
    """Whether every channel moved down and changed its spread but kept its shape, as a second z-score leaves them."""
    if len(guess.slope) < 3:
        return False
    moved = guess.offset / np.maximum(before.sd, 1e-30)
    straight = np.nan_to_num(affine_unpaired(_pixels(train, 20_000), _pixels(serve, 20_000)).r2, nan=1.0)
    grown = np.abs(np.log(np.maximum(guess.slope, 1e-300)))
    return bool(((moved < -AGAIN) & (grown > SPREAD) & (straight > STRAIGHT)).mean() > 0.8)


def _leaves_range(train: Array, serve: Array, before: Summary) -> bool:
    """Whether many serving pixels lie beyond the lowest or highest one that pixels of training can have."""
    if not _saturated(train, before):
        return False
    margin = 0.05 * (before.high - before.low)
    low, high = before.low - margin, before.high + margin
    out = ((serve < low[None, :, None]) | (serve > high[None, :, None])).mean(axis=(0, 2))
    return bool((out > OUTSIDE).mean() > 0.5)


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
        turned = _turned(summarise(inner[0]), summarise(inner[1])) or _turned_inside(*inner)
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
    apart, close = chi_square(kept, before, after), chi_square(turned, before, after)
    return turned if apart > CLEAR and close < FIT else None


def _turned_inside(train: Array, serve: Array) -> Change | None:
    """Reversed channels, told by what the channels of one pixel have to do with one another."""
    order = order_of(train, serve) if train.shape[1] == 3 else None
    if order is None or not order.swapped:
        return None
    return Change(swap_name((2, 1, 0)), np.ones(3), np.zeros(3), (2, 1, 0), "swap", sure=False)


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
    return change if fits(change, before, after, (0.15, 0.15)) else None


def _saturated(rows: Array, ends: Summary) -> bool:
    """Whether both ends of every channel occur three times or more."""
    low = (rows == ends.low[None, :, None]).sum(axis=(0, 2))
    high = (rows == ends.high[None, :, None]).sum(axis=(0, 2))
    return bool((low >= 3).all() and (high >= 3).all())


def errors_of(train: Array, serve: Array, change: Change) -> tuple[Array, Array]:
    """Return the standard errors of the slopes and offsets that these rows measure, (channels,) each.

    Rows compared one by one: of the least-squares line, where what does not fit counts. Otherwise those of the ratio
    of the spreads and of the means (delta method).
    """
    order = list(change.order)
    if train.shape == serve.shape:
        line = affine_paired(_pixels(train)[:, order], _pixels(serve))
        if (np.nan_to_num(line.r2, nan=1.0) >= ALIKE).all():
            return np.nan_to_num(line.slope_se), np.nan_to_num(line.offset_se)
    before, after = summarise(train), summarise(serve)
    slope = np.abs(change.slope) * np.hypot(before.log_sd_se[order], after.log_sd_se)
    offset = np.sqrt(after.mean_se**2 + (change.slope * before.mean_se[order]) ** 2 + (slope * before.mean[order]) ** 2)
    return slope, offset


def undo(serve: Array, change: Change) -> Array:
    """Return serving values (samples, channels, …) as training's pipeline would have made them."""
    shape = (1, -1) + (1,) * (serve.ndim - 2)
    back = (np.asarray(serve, dtype=np.float64) - change.offset.reshape(shape)) / change.slope.reshape(shape)
    return np.asarray(back[:, np.argsort(change.order)])
