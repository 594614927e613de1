"""Are two sets of targets numbered and scaled alike? By the values that occur, and by the rows that carry them.

Axis names: samples (n for training, m for serving), features (d), classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from nndiag.science.moments import Array

ALIKE = 1e-4  # of a step between neighbouring values
RARE = 3.0  # upper limit of a Poisson count of which none was seen (95 %)
FEWEST = 10  # rows of a class on each side
KNOWN, LEFT = 0.5, 0.5  # rate at which classes must be told apart in training, and share of it that is a miss
CHANCE = 1e-4  # family-wise
AGREE = 0.8  # of training's own rate that the other numbering must reach in serving
WIDE = 256  # features that classes are told by
RIDGE = 0.1  # share of the mean variance added to the covariance within classes


def moved(train: Array, serve: Array) -> tuple[float, float] | None:
    """Return (slope, offset) when the values of one set are an affine image of the other's, each onto each.

    Args:
        train: (k,) distinct values, ascending.
        serve: (k,) distinct values, ascending; None is returned where the numbers of values differ.
    """
    if len(train) != len(serve) or len(train) < 2 or np.array_equal(train, serve):
        return None
    slope = float((serve[-1] - serve[0]) / (train[-1] - train[0]))
    offset = float(serve[0] - slope * train[0])
    step = float(np.diff(serve).min())
    return (slope, offset) if (np.abs(slope * train + offset - serve) <= ALIKE * step).all() else None


@dataclass(frozen=True, slots=True)
class Unseen:
    """Values that serving has and training never had."""

    values: Array
    rows: int  # of serving that hold one
    p: float  # chance of so many rows when both sets come from one source


def unseen(train: tuple[Array, Array], serve: tuple[Array, Array]) -> Unseen:
    """Return what serving has and training never had, and the chance of that without a change.

    A source with rare values goes on to show new ones: the share of rows that do is about the number of values seen
    once over the rows seen (Good 1953); its upper limit here adds three rows.

    Args:
        train: (values, counts), ascending values.
        serve: (values, counts).
    """
    new = ~np.isin(serve[0], train[0])
    rows, total = int(serve[1][new].sum()), int(serve[1].sum())
    seen = int(train[1].sum())
    once = int((train[1] == 1).sum())
    share = min(1.0, (once + 2 * np.sqrt(once) + RARE) / max(seen, 1))
    p = float(special.bdtrc(rows - 1, total, share)) if rows and share < 1 else 1.0
    return Unseen(serve[0][new], rows, p)


@dataclass(frozen=True, slots=True)
class Renumbered:
    """Which class of training each class of serving looks like, where that is another one."""

    pairs: tuple[tuple[int, int], ...]  # (class in serving, class in training whose rows it holds)
    rate: float  # at which serving rows are told to be of the class that they look like
    kept: float  # at which they are told to be of the class they are called
    known: float  # the rate on training rows that were held out


def renumbered(x: Array, y: Array, other_x: Array, other_y: Array) -> Renumbered | None:
    """Return the classes that changed their numbers from training to serving, None where none is seen to have.

    A linear discriminant of training says what class each serving row looks like. It is believed where it tells
    held-out training rows apart, and where two classes or more look like one other class each, and hardly like
    themselves, while all in all serving is told as well as training was.

    Args:
        x: (n, d) training rows, finite.
        y: (n,) their whole-number classes.
        other_x: (m, d) serving rows.
        other_y: (m,) their classes.
    """
    classes = np.array([c for c in np.unique(y) if (y == c).sum() >= 2 * FEWEST])
    told = np.isin(y, classes)
    if len(classes) < 2 or not np.isin(other_y, classes).any():
        return None
    x, y = _narrow(x[told]), y[told]
    half = np.arange(len(y)) % 2 == 0
    if any((y[half] == c).sum() < 2 or (y[~half] == c).sum() < 2 for c in classes):
        return None
    held_out = _table(y[~half], _told(x[half], y[half], classes, x[~half]), classes)
    own = np.diag(held_out)
    called = np.isin(other_y, classes)
    other_y = other_y[called]
    served = _table(other_y, _told(x, y, classes, _narrow(other_x)[called]), classes)
    rows = np.array([(other_y == c).sum() for c in classes])
    like = served.argmax(axis=1)
    change = like.copy()
    for k in range(len(classes)):
        lost = special.bdtr(round(served[k, k] * rows[k]), int(rows[k]), own[k]) if rows[k] else 1.0
        sure = min(own[k], own[like[k]]) >= KNOWN and served[k, k] <= LEFT * own[k] and rows[k] >= FEWEST
        if like[k] == k or not sure or lost > CHANCE / len(classes):
            change[k] = k
    changed = np.flatnonzero(change != np.arange(len(classes)))
    present = np.flatnonzero(rows > 0)
    if len(changed) < 2 or len(set(change[present].tolist())) < len(present):
        return None
    weight = rows / rows.sum()
    rate, known = float(weight @ served[np.arange(len(classes)), change]), float(weight @ own[change])
    if rate < AGREE * known:
        return None
    pairs = tuple((int(classes[k]), int(classes[change[k]])) for k in changed)
    return Renumbered(pairs, rate, float(weight @ np.diag(served)), known)


def _narrow(x: Array) -> Array:
    """At most so many features, evenly taken."""
    if x.shape[1] <= WIDE:
        return x
    return x[:, np.linspace(0, x.shape[1] - 1, WIDE).round().astype(int)]


def _told(x: Array, y: Array, classes: Array, rows: Array) -> Array:
    """The class that a linear discriminant (Fisher 1936, covariance within classes, ridged) gives each row."""
    centres = np.stack([x[y == c].mean(axis=0) for c in classes])  # (classes, d)
    inside = x - centres[np.searchsorted(classes, y)]
    scale = np.sqrt((inside**2).mean(axis=0))
    scale = np.where(scale > 0, scale, np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0))
    inside, centres = inside / scale, centres / scale
    spread = inside.T @ inside / len(x)  # (d, d)
    spread[np.diag_indices_from(spread)] += RIDGE
    weights = np.linalg.solve(spread, centres.T)  # (d, classes)
    scores = (rows / scale) @ weights - 0.5 * (centres.T * weights).sum(axis=0)
    return np.asarray(classes[scores.argmax(axis=1)])


def _table(called: Array, told: Array, classes: Array) -> Array:
    """(classes, classes): of the rows called one class, the share told to be each."""
    out = np.zeros((len(classes), len(classes)))
    for k, c in enumerate(classes):
        mine = told[called == c]
        if len(mine):
            out[k] = [(mine == other).mean() for other in classes]
    return out
