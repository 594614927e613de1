"""Does one side take a logarithm or a root before it standardises, where the other side is as it was recorded?

Axis names: samples, channels, inner (pixels of one channel).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nndiag.science.drift import two_sample
from nndiag.science.moments import Array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.science.drift import Drift

ROWS = 50
TIES = 10  # values that a feature must have to show a curve
CENTRED, SPREAD = 0.5, 2.0  # mean and sd of a side that was standardised by training's constants
BENT, CERTAIN = 0.05, 1e-6  # KS distance and adjusted p-value of a curve between two standardised sets
CHANCE = 0.05  # adjusted p-value of none
BETTER, CLOSE = 3.0, 1.5  # times nearer than the straight line, and than the next curve
SURE, ALIKE = 1 - 1e-6, 0.999  # r² of rows that follow a curve to the last digits, and that a straight line explains
PAIRED = 0.3  # r² above which rows of one number are the same rows

Curve = Callable[[Array], Array]
#: what people take, the curve, and the least value that it takes
SHAPES: tuple[tuple[str, Curve, float], ...] = (
    ("log1p", np.log1p, -0.99),
    ("the logarithm", np.log, 1e-300),
    ("the square root", np.sqrt, 0.0),
    ("the cube root", np.cbrt, 0.0),
)
LOGARITHMS = {"log1p", "the logarithm"}  # roots are too near to other shapes to be told without the same rows


@dataclass(frozen=True, slots=True)
class Scaled:
    """What one side does and the other does not."""

    name: str  # of the curve
    training: bool  # whether training is the side that does
    features: tuple[int, ...]  # in which it does; in the others that side only standardises


def scaled_curve(train: Array, serve: Array) -> Scaled | None:
    """Return the curve that one side takes before it standardises, where the other side is raw, else None.

    Standardising leaves two free constants per feature, so the shape alone speaks: each side is standardised by itself
    and they are compared. Rows that are the same rows must follow the curve to the last digits. Two curves that fit
    nearly alike are no name; nor, without the same rows, is a root.

    Args:
        train: (samples, channels, inner), finite.
        serve: (samples, channels, inner), rows of their own or the same ones.
    """
    if min(len(train), len(serve)) < ROWS or train.shape[1:] != serve.shape[1:]:
        return None
    x, y = np.asarray(train, dtype=np.float64), np.asarray(serve, dtype=np.float64)
    rich = [c for c in range(x.shape[1]) if min(len(np.unique(x[:, c])), len(np.unique(y[:, c]))) >= TIES]
    for scaled, raw, training in ((x, y, True), (y, x, False)):
        mean, sd = np.abs(scaled.mean(axis=(0, 2))), scaled.std(axis=(0, 2))
        ready = [c for c in rich if mean[c] < CENTRED and 1 / SPREAD < sd[c] < SPREAD]
        if not ready or len(ready) < len(rich):
            continue
        found = _shape(scaled[:, ready], raw[:, ready])
        if found is not None:
            name, bent = found
            return Scaled(name, training, tuple(ready[int(c)] for c in bent))
    return None


def _shape(scaled: Array, raw: Array) -> tuple[str, Array] | None:
    """The curve and the features in which it is needed: all others follow a straight line."""
    line = _line(raw, scaled) if scaled.shape == raw.shape else np.zeros(1)
    if (line > PAIRED).all():
        straight = line >= ALIKE
        exact = [(name, _follows(raw, scaled, bend, low, SURE)) for name, bend, low in SHAPES]
        fitting = [(name, np.flatnonzero(~straight)) for name, good in exact if (good | straight).all()]
        return fitting[0] if fitting and not straight.all() else None
    before = _compared(raw, scaled)
    bent = np.flatnonzero((before.ks >= BENT) & (before.adjusted < CERTAIN))
    rest = np.setdiff1d(np.arange(len(before.ks)), bent)
    if len(bent) == 0 or not _close(before, rest):
        return None
    gaps = []
    for name, bend, low in SHAPES:
        if raw[:, bent].min() < low:
            continue
        after = _compared(bend(raw[:, bent]), scaled[:, bent])
        if _close(after, range(len(bent))):
            gaps.append((float(after.ks.mean()), name))
    if not gaps:
        return None
    (least, name), *others = sorted(gaps)
    if least > float(before.ks[bent].mean()) / BETTER:
        return None
    fit = {name, *(other for gap, other in others if gap < CLOSE * least)}
    if not fit <= LOGARITHMS:
        return None
    return (name if len(fit) == 1 else "the logarithm (or log1p)"), bent


def _compared(raw: Array, scaled: Array) -> Drift:
    """Both sides, standardised by themselves; one feature per channel."""
    return two_sample(_values(raw), _values(scaled))


def _values(rows: Array) -> Array:
    """One standardised number per row and channel: the value, or one position of many, which keeps rows independent."""
    x = rows[:, :, rows.shape[2] // 2]
    sd = x.std(axis=0)
    return np.asarray((x - x.mean(axis=0)) / np.where(sd > 0, sd, 1.0))


def _close(one: Drift, features: Sequence[int] | Array) -> bool:
    chosen = np.asarray(features, dtype=int)
    return bool((one.adjusted[chosen] > CHANCE).all())


def _follows(raw: Array, scaled: Array, bend: Curve, low: float, limit: float) -> Array:
    """(channels,) whether the curve of the raw values leads to the scaled ones in a straight line."""
    fit = raw.min(axis=(0, 2)) >= low
    out = np.zeros(raw.shape[1], dtype=bool)
    if fit.any():
        out[fit] = _line(bend(raw[:, fit]), scaled[:, fit]) > limit
    return out


def _line(x: Array, y: Array) -> Array:
    """(channels,) r² of a straight line from one side to the other, rows compared one by one."""
    flat = [np.moveaxis(rows, 1, 0).reshape(rows.shape[1], -1) for rows in (x, y)]
    x, y = (part - part.mean(axis=1, keepdims=True) for part in flat)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = (x * y).sum(axis=1) ** 2 / ((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.asarray(np.nan_to_num(r2))
