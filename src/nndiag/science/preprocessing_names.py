"""What people call the map that leads from one preprocessing to another.

Axis names: samples, channels, inner (pixels of one channel).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nndiag.science.preprocessing import LEVELS, RAW, SYMMETRIC, TURNED, UNIT, UNSCALED, Normaliser, normalisers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nndiag.science.moments import Array


@dataclass(frozen=True, slots=True)
class Summary:
    """Per-channel mean and sd of a set, with the standard errors that independent rows allow; all (channels,)."""

    mean: Array
    sd: Array
    mean_se: Array
    log_sd_se: Array
    low: Array
    high: Array
    rows: int


def summarise(rows: Array) -> Summary:
    """Summarise (samples, channels, inner); pixels of one image are not independent, images are."""
    x = np.asarray(rows, dtype=np.float64)
    n = len(x)
    first, second = x.mean(axis=2), (x**2).mean(axis=2)
    mean = first.mean(axis=0)
    variance = np.maximum(second.mean(axis=0) - mean**2, 0.0)
    safe = np.maximum(variance, 1e-300)
    leverage = second - 2 * mean * first  # influence of one row on the variance
    return Summary(
        mean,
        np.sqrt(variance),
        first.std(axis=0) / np.sqrt(n),
        np.where(variance > 0, leverage.std(axis=0) / (2 * safe * np.sqrt(n)), 0.0),
        x.min(axis=(0, 2)),
        x.max(axis=(0, 2)),
        n,
    )


def part(whole: Summary, chosen: Array) -> Summary:
    """The summary of some channels, (channels,) booleans."""
    mean, sd, mean_se, log_sd_se, low, high = (
        values[chosen] for values in (whole.mean, whole.sd, whole.mean_se, whole.log_sd_se, whole.low, whole.high)
    )
    return Summary(mean, sd, mean_se, log_sd_se, low, high, whole.rows)


def pooled(whole: Summary) -> Summary:
    """The summary of all channels taken as one, for pipelines with a single mean and sd; its errors are not known."""
    mean = whole.mean.mean()
    sd = np.sqrt(np.mean(whole.sd**2 + (whole.mean - mean) ** 2))
    unknown = np.zeros(1)
    return Summary(mean[None], sd[None], unknown, unknown, whole.low.min()[None], whole.high.max()[None], whole.rows)


@dataclass(frozen=True, slots=True)
class Change:
    """serve = slope · train[order] + offset per channel, and what people call that."""

    name: str  # "" where nobody has a name for it
    slope: Array
    offset: Array
    order: tuple[int, ...] = ()
    kind: str = "map"  # identity | map | swap | twice
    exact: bool = False  # rows were compared one by one, or both lattices are known
    sure: bool = True  # False where light alone might look like it


def between(train: Normaliser, serve: Normaliser, channels: int) -> Change:
    """Return the change from one pipeline to the other, named."""
    slope = serve.slope(channels) / train.slope(channels)
    offset = serve.offset(channels) - slope * train.offset(channels)
    kind = "identity" if train == serve else "twice" if serve.twice == train.name else "map"
    return Change(_title(train, serve), slope, offset, tuple(range(channels)), kind, exact=True)


def _title(train: Normaliser, serve: Normaliser) -> str:
    """What the user would call it."""
    known = {
        (UNIT.name, RAW.name): "the division by 255 is missing in serving",
        (RAW.name, UNIT.name): "serving divides by 255, training did not",
        (UNIT.name, SYMMETRIC.name): "serving maps to [-1, 1] (2x - 1), training used [0, 1]",
        (SYMMETRIC.name, UNIT.name): "the map to [-1, 1] (2x - 1) is missing in serving",
        (train.name, train.name): "the same preprocessing",
        (train.name, f"{train.name} {TURNED}"): f"{train.name} are used {TURNED} in serving: swapped channel constants",
        (train.name, f"{train.name} {UNSCALED}"): f"the division by 255 before {train.name} is missing in serving",
    }
    if (train.name, serve.name) in known:
        return known[train.name, serve.name]
    if train is UNIT and serve.twice == "/255":
        return "serving divides by 255 twice"
    if serve.twice == train.name:
        return f"{train.name} are applied twice in serving"
    if train.name == f"{serve.name} {TURNED}":
        return f"{serve.name} are used {TURNED} in training: swapped channel constants"
    return f"serving has {serve.name}, training has {train.name}"


def pairs(channels: int, train: Summary, sure: Normaliser | None = None) -> Iterator[Change]:
    """Yield every named change whose training side could have made these training values (`sure`: which one did)."""
    known = normalisers(channels)
    for first in known if sure is None else (sure,):
        low, high = first.invert(train.low, channels), first.invert(train.high, channels)
        if (low < -0.02).any() or (high > 1.02).any() or (high - low).max() < 0.05:
            continue
        for second in known:
            if second != first:
                yield between(first, second, channels)


def swap_name(order: tuple[int, ...]) -> str:
    """B, G, R against R, G, B, or the channels that changed places."""
    if order == (2, 1, 0):
        return "the channels are in reversed order (B, G, R against R, G, B)"
    moved = [c for c, k in enumerate(order) if c != k]
    return f"channels {', '.join(map(str, moved[:6]))} come from channels {', '.join(str(order[c]) for c in moved[:6])}"


def standardised(one: Summary) -> bool:
    """Whether every varying channel has mean 0 and sd 1, as a standardiser leaves its own training set."""
    varying = one.sd > 1e-8
    return bool(
        varying.any() and (np.abs(one.mean[varying]) < 0.02).all() and (np.abs(one.sd[varying] - 1) < 0.02).all()
    )


MISSING = "the division by 255 is missing in serving"
DIVIDED = "serving divides by 255, training did not"


def in_context(name: str, train: Summary) -> str:
    """Say "twice" where training had divided already."""
    if name == DIVIDED and train.high.max() <= 1.5:
        return "serving divides by 255 twice"
    if name == MISSING and train.high.max() <= 1.5 / LEVELS:
        return "training divides by 255 twice, serving once"
    return name


def possible(change: Change, train: Summary) -> bool:
    """Whether training has the range that a map onto [-1, 1], or back from it, starts from."""
    ranges = {
        (2.0, -1.0): (0.0, 1.0),
        (0.5, 0.5): (-1.0, 1.0),
        (1 / 127.5, -1.0): (0.0, 255.0),
        (127.5, 127.5): (-1.0, 1.0),
    }
    low, high = ranges.get((float(change.slope[0]), float(change.offset[0])), (-np.inf, np.inf))
    slack = 0.01 * (high - low) if np.isfinite(high - low) else 0.0
    return bool(train.low.min() >= low - slack and train.high.max() <= high + slack)


COMMON: Sequence[tuple[float, float, str]] = (
    (255.0, 0.0, MISSING),
    (1 / 255.0, 0.0, DIVIDED),
    (256.0, 0.0, "serving is 256 times training: the division by 256 is missing in serving"),
    (1 / 256.0, 0.0, "serving is training divided by 256"),
    (2.0, -1.0, "serving is 2x - 1 of training"),
    (0.5, 0.5, "the map 2x - 1 is missing in serving"),
    (1 / 127.5, -1.0, "serving is x / 127.5 - 1 of training"),
    (127.5, 127.5, "the map x / 127.5 - 1 is missing in serving"),
    (1 / 32768.0, 0.0, "serving is training divided by 32768 (16-bit audio)"),
    (32768.0, 0.0, "the division by 32768 (16-bit audio) is missing in serving"),
    (1 / 65535.0, 0.0, "serving is training divided by 65535 (16-bit images)"),
    (65535.0, 0.0, "the division by 65535 (16-bit images) is missing in serving"),
    (100.0, 0.0, "serving is 100 times training (per cent against fractions)"),
    (0.01, 0.0, "serving is training divided by 100 (fractions against per cent)"),
    (1000.0, 0.0, "serving is 1000 times training (a unit)"),
    (0.001, 0.0, "serving is training divided by 1000 (a unit)"),
)
