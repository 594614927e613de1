"""What a layer is fed, as numbers that the rules judge: whole profile, kinds of columns, names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nndiag.lab.scale import Seen
    from nndiag.science.moments_profile import Profile

SPARSE = 0.9  # share of one value above which a feature's spread says little about its scale
SMEARED = 0.05  # of the sd: a width that counts as one value where a normaliser moved it row by row
LISTED = 5  # names in a message


@dataclass(frozen=True)
class View:
    """The numbers that are judged, and what to call them."""

    profile: Profile
    what: str = "the inputs"  # "what 'fc1' sees"
    columns: tuple[str, ...] = ()
    note: str = ""  # what lies between the data and these numbers

    def column(self, number: int) -> str:
        """The name of a feature."""
        if number < len(self.columns):
            return self.columns[number]
        return f"{'channel' if self.profile.layout.kind == 'images' else 'feature'} {number}"

    def listed(self, numbers: Any) -> str:
        """The first few names, and how many more there are."""
        names = [self.column(int(number)) for number in numbers]
        more = len(names) - LISTED
        return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Columns:
    """Which features are judged, as boolean arrays (features,)."""

    constant: Any
    binary: Any
    sparse: Any

    @property
    def judged(self) -> Any:
        """Features with a scale of their own."""
        return ~(self.constant | self.binary)


def columns_of(profile: Profile, *, prepared: bool = False) -> Columns:
    """Sort features into constant, two-valued (0/1 or -1/1), mostly one value, and the rest.

    Behind a normaliser the one value is smeared: there, nine in ten values within a twentieth of the sd count as one.
    """
    import numpy as np

    x = profile.finite_sample
    moments = profile.moments
    constant = moments.low >= moments.high
    flat = np.moveaxis(x, 1, 0).reshape(profile.features, -1)  # (features, rows · inner)
    step = max(1, flat.shape[1] // 20_000)
    binary, sparse = np.zeros(profile.features, bool), np.zeros(profile.features, bool)
    for j in range(profile.features):
        values, counts = np.unique(flat[j, ::step], return_counts=True)
        ends = (moments.low[j], moments.high[j])
        binary[j] = len(values) <= 2 and ends in {(0.0, 1.0), (-1.0, 1.0)}
        sparse[j] = len(counts) > 0 and counts.max() >= SPARSE * counts.sum()
        if prepared and len(values) > 1:
            low, high = np.quantile(flat[j, ::step], [(1 - SPARSE) / 2, (1 + SPARSE) / 2])
            sparse[j] |= high - low < SMEARED * moments.sd[j]
    return Columns(constant, binary, sparse)


def ids_reason(seen: Seen) -> str:
    """Say why integer inputs are ids rather than magnitudes; empty when they are magnitudes.

    Ids: wide integers without a sign (padding at -1 or -100 aside) whose columns all draw from one range and whose
    neighbours are unrelated. Bytes (uint8) are pixels.
    """
    import numpy as np

    profile = seen.inputs
    if profile.dtype not in {"int64", "int32", "int16", "uint16", "uint32", "uint64"} or len(profile.shape) > 1:
        return ""
    x = profile.finite_sample[:, :, 0]
    low, high = float(profile.moments.low.min()), float(profile.moments.high.max())
    if len(x) == 0 or (low < 0 and low not in {-1.0, -100.0}) or high < 2:
        return ""
    if x.shape[1] == 1:
        return "" if profile.shape else "one integer per sample"
    top = profile.moments.high
    alike = (top > 0.5 * np.median(top)).mean() > 0.5 and np.median(top) > 0.3 * high
    if not alike:
        return ""
    if _related(x[:2000, :64]) > 0.3:
        return ""
    return f"integers {low:g} to {high:g} in every column, neighbours unrelated"


def _related(x: Any) -> float:
    """Median correlation of neighbouring columns, padding (0 and below) left out."""
    import numpy as np

    found = []
    for left, right in zip(x.T[:-1], x.T[1:], strict=True):
        both = (left > 0) & (right > 0)
        if both.sum() >= 8 and left[both].std() > 0 and right[both].std() > 0:
            found.append(abs(float(np.corrcoef(left[both], right[both])[0, 1])))
    return float(np.median(found)) if found else 0.0


def times(factor: float) -> str:
    """A factor to three digits, in full where scientific notation would be read as a code."""
    return f"{float(f'{factor:.3g}'):,.0f}" if 100 <= factor < 1e7 else f"{factor:.3g}"


def layout_text(profile: Profile) -> str:
    """Shape and meaning of the axes, as printed."""
    sizes = " x ".join(str(size) for size in (profile.rows, *profile.shape))
    return f"{sizes} {profile.layout.text} {profile.dtype}"
