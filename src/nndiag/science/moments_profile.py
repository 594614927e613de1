"""Everything about a set of inputs that fits in bounded memory: moments of all of it, and every k-th row.

Axis names: rows, features (or channels), inner (the other axes of one feature: pixels, time). Which rows are kept
depends on their number in the set alone, so chunks and ranks can be joined in any way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nndiag.science import moments as m

if TYPE_CHECKING:
    from nndiag.science.moments import Array

KEPT = 4096  # rows
NUMBERS = 6_000_000  # kept in all
INNER = 4096  # positions kept of one row and feature
COLOURS = (1, 3, 4)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which axis holds features, and what the others are; axis 0 is rows."""

    kind: str  # table | images | sequence | scalar
    axis: int | None  # None: one feature in all
    text: str

    def features(self, shape: tuple[int, ...]) -> int:
        """How many features an array of this shape has."""
        return shape[self.axis] if self.axis is not None else 1

    def rows_first(self, block: Array) -> Array:
        """Return (rows, features, inner)."""
        if self.axis is None:
            return block.reshape(len(block), 1, -1)
        moved = np.moveaxis(block, self.axis, 1)
        return moved.reshape(len(block), moved.shape[1], -1)

    def flat(self, block: Array) -> Array:
        """Return the cheapest view for moments: (rows, features) or (rows, features, inner)."""
        if self.axis is not None and self.axis == block.ndim - 1:
            return block.reshape(-1, block.shape[-1])
        whole = self.rows_first(block)
        return whole[:, :, 0] if whole.shape[2] == 1 else whole


def infer_layout(shape: tuple[int, ...], axis: int | None = None) -> Layout:
    """Say what the axes of an array are, from its shape (rows first), or take the given feature axis.

    Raises:
        IndexError: The given axis is not there, or is the rows.
    """
    ndim = len(shape)
    if axis is not None:
        at = axis + ndim if axis < 0 else axis
        if not 0 < at < ndim:
            raise IndexError(axis)
        return Layout("images" if ndim >= 4 else "sequence" if ndim == 3 else "table", at, f"feature axis {at} (given)")
    if ndim <= 1:
        return Layout("scalar", None, "(N,)")
    if ndim == 2:
        return Layout("table", 1, "(N, features)")
    if ndim == 3:
        square = shape[1] == shape[2] and shape[1] >= 8
        return Layout("images", None, "(N, H, W)") if square else Layout("sequence", 2, "(N, T, features)")
    if shape[-1] in COLOURS and shape[1] not in COLOURS:
        return Layout("images", ndim - 1, f"(N, {'D, ' * (ndim - 4)}H, W, channels)")
    return Layout("images", 1, f"(N, channels, {'D, ' * (ndim - 4)}H, W)")


@dataclass(frozen=True)
class Profile:
    """What is known of a set after one pass."""

    layout: Layout
    shape: tuple[int, ...]  # of one row
    dtype: str
    rows: int
    moments: m.Moments
    sample: Array  # (kept rows, features, inner)
    index: Array = field(repr=False)  # which rows were kept
    stride: int = 1
    first_bad: tuple[int, int] | None = None  # row and feature of the first value that is not finite
    ragged: bool = False

    @property
    def features(self) -> int:
        """How many features or channels."""
        return len(self.moments.mean)

    @cached_property
    def finite_sample(self) -> Array:
        """The kept rows that are finite throughout, in float64."""
        x = np.asarray(self.sample, dtype=np.float64)
        kept = np.isfinite(x).all(axis=(1, 2))
        return x if kept.all() else x[kept]

    @property
    def vectors(self) -> Array:
        """The kept finite rows as a layer over all inputs would see them: (rows, features · inner)."""
        x = self.finite_sample
        return x.reshape(len(x), -1)


class Profiler:
    """Collects a Profile from blocks of rows, in any sizes, in order."""

    def __init__(self, axis: int | None = None) -> None:
        """Start with nothing seen; `axis` is the feature axis when the caller knows it."""
        self._axis = axis
        self._layout: Layout | None = None
        self._shape: tuple[int, ...] = ()
        self._dtype = ""
        self._ragged = False
        self._moments = m.empty(0)
        self._rows, self._next, self._stride, self._capacity, self._inner = 0, 0, 1, KEPT, 1
        self._kept: list[Array] = []
        self._held = 0  # rows kept so far
        self._index: list[Array] = []
        self._first_bad: tuple[int, int] | None = None

    def view(self, block: Array) -> Array:
        """Return the block as `moments` takes it: for callers that compute a block's moments elsewhere.

        Raises:
            ValueError: The number of features changed.
        """
        layout = self._layout or self._begin(block)
        if layout.features(block.shape) != len(self._moments.mean) or block.ndim != len(self._shape) + 1:
            raise ValueError(block.shape[1:])
        return layout.flat(block)

    def add(self, block: Array, start: int | None = None, part: m.Moments | None = None) -> None:
        """Take in rows.

        Args:
            block: Rows first.
            start: The number of the first row; the next unseen when left out.
            part: The block's moments, where they are known already.

        Raises:
            ValueError: The number of features changed.
        """
        first = self._next if start is None else start
        self._next = first + len(block)
        if len(block) == 0:
            return
        view = self.view(block)
        layout = self._layout or self._begin(block)
        self._ragged |= block.shape[1:] != self._shape
        part = m.moments(view) if part is None else part
        if part.nonfinite.any() and self._first_bad is None:
            bad = np.argwhere(~np.isfinite(layout.rows_first(block)))[0]
            self._first_bad = (first + int(bad[0]), int(bad[1]))
        self._moments = m.merge(self._moments, part)
        self._rows += len(block)
        self._keep(layout, block, first)

    def _begin(self, block: Array) -> Layout:
        self._layout = layout = infer_layout(block.shape, self._axis)
        self._shape, self._dtype = block.shape[1:], str(block.dtype)
        self._moments = m.empty(layout.features(block.shape))
        features = len(self._moments.mean)
        self._inner = max(1, min(INNER, math.prod(self._shape) // max(features, 1)))
        self._capacity = max(16, min(KEPT, NUMBERS // max(1, features * self._inner)))
        return layout

    def _keep(self, layout: Layout, block: Array, first: int) -> None:
        """Keep every `stride`-th row; double the stride when that is too many."""
        wanted = np.arange((-first) % self._stride, len(block), self._stride)
        if len(wanted) == 0:
            return
        rows = layout.rows_first(block[wanted])
        inner = rows.shape[2]
        if inner != self._inner:
            rows = rows[:, :, np.linspace(0, inner - 1, self._inner).round().astype(np.int64)]
        self._kept.append(np.array(rows))
        self._index.append(first + wanted)
        self._held += len(wanted)
        while self._held > 2 * self._capacity:
            self._thin(self._stride * 2)

    def _thin(self, stride: int) -> None:
        keep = [index % stride == 0 for index in self._index]
        self._kept = [rows[mask] for rows, mask in zip(self._kept, keep, strict=True) if mask.any()]
        self._index = [index[mask] for index, mask in zip(self._index, keep, strict=True) if mask.any()]
        self._held, self._stride = sum(map(len, self._index)), stride

    def result(self) -> Profile | None:
        """Return what was seen, or None when there was nothing."""
        if self._layout is None:
            return None
        return Profile(
            self._layout,
            self._shape,
            self._dtype,
            self._rows,
            self._moments,
            np.concatenate(self._kept),
            np.concatenate(self._index),
            self._stride,
            self._first_bad,
            self._ragged,
        )


def join(a: Profile, b: Profile) -> Profile:
    """Join the profiles of two disjoint shares of one set."""
    stride = max(a.stride, b.stride)
    index = np.concatenate([a.index, b.index])
    sample = np.concatenate([a.sample, b.sample])
    while True:
        chosen = np.flatnonzero(index % stride == 0)
        if len(chosen) <= 2 * max(16, min(KEPT, NUMBERS // max(1, sample[0].size))):
            break
        stride *= 2
    chosen = chosen[np.argsort(index[chosen], kind="stable")]
    bad = [item for item in (a.first_bad, b.first_bad) if item is not None]
    return replace(
        a,
        rows=a.rows + b.rows,
        moments=m.merge(a.moments, b.moments),
        sample=sample[chosen],
        index=index[chosen],
        stride=stride,
        first_bad=min(bad) if bad else None,
        ragged=a.ragged or b.ragged or a.shape != b.shape,
    )
