"""Which normaliser made these pixels, and which named map leads from one pipeline to another?

Axis names: samples, channels, inner (pixels of one channel). A normaliser is the affine map from x in [0, 1] to
(gain · x - mean) / sd, per channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nndiag.science.moments import Array

LEVELS = 255.0
ON_LATTICE = 1e-3  # distance to an integer that counts as on the lattice (science.md 2.1-6)
TURNED, UNSCALED = "in reversed channel order", "on 0-255 values"
WHOLE = 0.98  # share of the values that must be on it
FEW = 12  # distinct values below which every lattice fits by luck

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE = (123.68 / 255, 116.779 / 255, 103.939 / 255)


@dataclass(frozen=True, slots=True)
class Normaliser:
    """x -> (gain · x - mean) / sd for x in [0, 1]; mean and sd per channel or one for all."""

    name: str
    mean: tuple[float, ...] = (0.0,)
    sd: tuple[float, ...] = (1.0,)
    gain: float = 1.0
    twice: str = ""  # the name of the normaliser that was applied twice

    def slope(self, channels: int) -> Array:
        """(channels,) factor from [0, 1] values."""
        return self.gain / np.resize(np.asarray(self.sd), channels)

    def offset(self, channels: int) -> Array:
        """(channels,) constant added after the factor."""
        return -np.resize(np.asarray(self.mean), channels) / np.resize(np.asarray(self.sd), channels)

    def fits(self, channels: int) -> bool:
        """Whether its constants are for that many channels."""
        return len(self.mean) in (1, channels) and len(self.sd) in (1, channels)

    def invert(self, values: Array, channels: int) -> Array:
        """Return the [0, 1] values behind (…, channels) normalised ones."""
        return np.asarray((values - self.offset(channels)) / self.slope(channels))


def _repeated(one: Normaliser) -> Normaliser:
    """The same constants applied to what they already made: ((x - m)/s - m)/s = (x - m - m s)/s²."""
    mean = tuple(m + m * s for m, s in zip(one.mean, one.sd, strict=True))
    return Normaliser(f"{one.name} applied twice", mean, tuple(s * s for s in one.sd), twice=one.name)


def _reversed(one: Normaliser) -> Normaliser:
    """The constants in B, G, R order on R, G, B channels."""
    return Normaliser(f"{one.name} {TURNED}", one.mean[::-1], one.sd[::-1], one.gain)


RAW = Normaliser("raw 0-255 values", gain=LEVELS)
UNIT = Normaliser("values in [0, 1]")
SYMMETRIC = Normaliser("values in [-1, 1]", (0.5,), (0.5,))
_CONSTANTS = (
    Normaliser("the ImageNet constants", *IMAGENET),
    Normaliser("the CIFAR-10 constants", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    Normaliser("the CIFAR-10 constants (0.2023 variant)", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    Normaliser("the CIFAR-100 constants", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    Normaliser("the CLIP constants", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    Normaliser("the SVHN constants", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
)
_GREY = (
    Normaliser("the MNIST constants", (0.1307,), (0.3081,)),
    Normaliser("the Fashion-MNIST constants", (0.2860,), (0.3530,)),
)
_OTHERS = (
    Normaliser("values in [-0.5, 0.5]", (0.5,), (1.0,)),
    Normaliser("values in [0, 1] divided by 255 again", sd=(LEVELS,), twice="/255"),
    Normaliser("the map to [-1, 1] on 0-255 values", (0.5,), (0.5,), LEVELS),
    Normaliser("the map to [-1, 1] applied twice", (0.75,), (0.25,), twice="2x - 1"),
    Normaliser("the VGG mean pixel subtracted", tuple(LEVELS * m for m in CAFFE), (1.0,), LEVELS),
    Normaliser(
        "the VGG mean pixel subtracted, in B, G, R order", tuple(LEVELS * m for m in CAFFE[::-1]), (1.0,), LEVELS
    ),
    Normaliser("raw 0-255 values less 128", (128.0,), (1.0,), LEVELS),
)


def normalisers(channels: int) -> tuple[Normaliser, ...]:
    """Return every known normaliser for that many channels, the common ones first."""
    named = [one for one in (*_CONSTANTS, *_GREY) if one.fits(channels)]
    turned = [_reversed(one) for one in named if channels == 3 and len(one.mean) == 3]
    unscaled = [Normaliser(f"{one.name} {UNSCALED}", one.mean, one.sd, LEVELS) for one in named]
    everything = (RAW, UNIT, SYMMETRIC, *named, *_OTHERS, *turned, *unscaled, *map(_repeated, named))
    return tuple(one for one in everything if one.fits(channels))


def lattice_score(values: Array, normaliser: Normaliser) -> float:
    """Return the share of values whose inverse times 255 is within 1e-3 of an integer in 0-255.

    1 for the normaliser that made unresized 8-bit images, about 0.01 for others, one third for swapped channel
    constants (the middle channel survives).

    Args:
        values: (samples, channels).
        normaliser: The candidate.
    """
    channels = values.shape[-1]
    levels = normaliser.invert(np.asarray(values, dtype=np.float64), channels) * LEVELS
    slack = ON_LATTICE + 4e-7 * np.abs(values) * LEVELS / np.abs(normaliser.slope(channels))  # float32's own rounding
    near = np.abs(levels - np.round(levels)) <= slack
    return float((near & (levels > -0.5) & (levels < LEVELS + 0.5)).mean()) if values.size else 0.0


def recognise(values: Array) -> Normaliser | None:
    """Name the one normaliser that put 8-bit values where these are, or None.

    Judged on distinct values, channel by channel: backgrounds repeat, and a repeated value proves nothing twice.

    Args:
        values: (samples, channels).
    """
    channels = values.shape[-1]
    distinct = [np.unique(values[:, c]) for c in range(channels)]
    if not all(FEW <= len(one) <= 256 for one in distinct):
        return None
    best = None
    for candidate in normalisers(channels):
        score = min(_one_channel(candidate, channels, c, distinct[c]) for c in range(channels))
        if score >= WHOLE and (best is None or score > best[0]):
            best = (score, candidate)
    return best[1] if best else None


def _one_channel(candidate: Normaliser, channels: int, channel: int, values: Array) -> float:
    """Lattice score of one channel's distinct values."""
    slope, offset = candidate.slope(channels)[channel], candidate.offset(channels)[channel]
    alone = Normaliser("", (-offset / slope,), (1.0 / slope,))
    return lattice_score(values[:, None], alone)
