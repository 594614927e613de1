"""Identical, sign-flipped and nearly equal units: rows of a matrix compared at memory speed.

A permutation of hidden units that maps network, data, loss and optimizer state to itself maps the gradient to itself,
so a permutation-equivariant optimizer (SGD, momentum, Adam …) keeps equal units equal for ever. Equal incoming rows
are the first half of that condition; these functions find them. (units, features) throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FIRST_LOOK = 8  # columns read before anything else: one cache line of float32
SECOND_LOOK = 64
MANY = 4  # a share of the rows, inverted
CHUNK_BYTES = 1 << 20  # rows are compared in pieces that stay in the cache
PROJECTIONS = 3  # directions for near duplicates: one undercounts, and gives thousands of false candidates
BFLOAT16_NEGATIVE_ZERO = 0x8000


@dataclass(frozen=True, slots=True)
class Orbits:
    """A partition of units into classes of equal ones. `labels` numbers the classes in order of appearance."""

    labels: NDArray[np.int64]  # (units,)

    @property
    def width(self) -> int:
        """Number of distinct units: the effective width."""
        return int(self.labels.max(initial=-1)) + 1

    @property
    def groups(self) -> list[NDArray[np.int64]]:
        """The classes that hold two units or more, largest first, then in order of appearance."""
        order = np.argsort(self.labels, kind="stable")
        cuts = np.flatnonzero(np.diff(self.labels[order])) + 1
        parts = [part for part in np.split(order, cuts) if part.size > 1]
        return sorted(parts, key=lambda part: (-part.size, int(part[0])))


def numbered(keys: NDArray[np.generic]) -> NDArray[np.int64]:
    """Number equal keys by first appearance: [7, 3, 7] becomes [0, 1, 0]."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(first.size, dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(first.size)
    return np.asarray(rank[inverse.reshape(-1)])


def identical(rows: NDArray[np.generic], classes: NDArray[np.int64] | None = None) -> Orbits:
    """Partition rows into exactly equal ones.

    A few columns are hashed first: rows that differ there are settled after one cache line each. Only rows that agree
    there are read whole and compared with the first of their class, so equality is proved and never believed from a
    hash. -0.0 equals 0.0; a row with NaN equals nothing.

    Args:
        rows: (units, features), any numeric dtype; bfloat16 as its uint16 bits.
        classes: Units of different classes are never equal (the groups of a grouped convolution).

    Returns:
        The partition.

    Example:
        >>> identical(np.array([[0.0, 1.0], [2.0, 3.0], [-0.0, 1.0]])).labels.tolist()
        [0, 1, 0]
    """
    units, features = rows.shape
    if units == 0 or features == 0:
        return Orbits(np.arange(units) if classes is None else numbered(classes))
    keys = _hashes(rows[:, _spread(features, FIRST_LOOK)])
    if classes is not None:
        keys = keys + classes.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    suspects = _shared(keys)
    labels = np.arange(units, dtype=np.int64)
    # A second look pays where few agreed at first by chance; where most rows did, they are equal or full of zeros.
    if suspects.size and features > SECOND_LOOK and suspects.size * MANY < units:
        keys[suspects] += _hashes(rows[np.ix_(suspects, _spread(features, SECOND_LOOK))])
        suspects = suspects[_in_shared(keys[suspects])]
    suspects = _unite(rows, suspects, keys, classes, labels)  # most that agree at first look are equal
    if suspects.size:
        keys[suspects] += _full_hashes(rows, suspects)
        suspects = suspects[_in_shared(keys[suspects])]
    while suspects.size:
        suspects = _unite(rows, suspects, keys, classes, labels)
    return Orbits(numbered(labels))


def _spread(features: int, count: int) -> NDArray[np.int64]:
    """Indices of `count` columns from end to end."""
    return np.asarray(np.unique(np.linspace(0, features - 1, count).astype(np.int64)))


def _unite(
    rows: NDArray[np.generic],
    suspects: NDArray[np.int64],
    keys: NDArray[np.uint64],
    classes: NDArray[np.int64] | None,
    labels: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Give each suspect the label of the first with its key where the rows are equal; return those left over."""
    if suspects.size == 0:
        return suspects
    _, first, inverse = np.unique(keys[suspects], return_index=True, return_inverse=True)
    leaders = suspects[first[inverse.reshape(-1)]]
    same = _equal_rows(rows, suspects, leaders)
    if classes is not None:
        same &= classes[suspects] == classes[leaders]
    labels[suspects[same]] = leaders[same]
    return np.asarray(suspects[~same & (suspects != leaders)])


def _equal_rows(rows: NDArray[np.generic], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Compare rows[left] with rows[right] in pieces."""
    same = np.empty(left.size, dtype=bool)
    for piece in _pieces(left.size, rows.shape[1] * rows.itemsize):
        here, mine = right[piece], left[piece]
        leader = here[:1] if (here == here[0]).all() else here
        series = mine[-1] - mine[0] == mine.size - 1 and (np.diff(mine) == 1).all()
        same[piece] = _agree(rows[mine[0] : mine[-1] + 1] if series else rows[mine], rows[leader])
    return same


def _agree(a: NDArray[np.generic], b: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Rows equal as numbers: -0.0 equals 0.0, NaN equals nothing."""
    if a.dtype == np.uint16:
        a, b = _canonical(a), _canonical(b)
    if b.shape[0] > 1 or not _packed(a) or np.not_equal(b, b).any():
        return np.asarray((a == b).all(axis=1))
    same = np.asarray((a.view(np.uint64) == np.ascontiguousarray(b).view(np.uint64)).all(axis=1))
    other = np.flatnonzero(~same)  # a zero may have either sign
    if other.size:
        same[other] = (a[other] == b).all(axis=1)
    return same


def _packed(rows: NDArray[np.generic]) -> bool:
    """Whether a row's bytes can be read eight at a time."""
    return rows.flags.c_contiguous and rows.shape[1] * rows.itemsize % 8 == 0


def _full_hashes(rows: NDArray[np.generic], index: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash whole rows, in pieces."""
    out = np.empty(index.size, dtype=np.uint64)
    every = index.size == rows.shape[0]
    for piece in _pieces(index.size, rows.shape[1] * rows.itemsize):
        out[piece] = _hashes(rows[piece] if every else rows[index[piece]])
    return out


def _hashes(rows: NDArray[np.generic]) -> NDArray[np.uint64]:
    """Multiply the bits by fixed odd numbers and add: equal rows have equal hashes, -0.0 included."""
    bits = np.ascontiguousarray(_canonical(rows))
    pad = -(bits.shape[1] * bits.itemsize) % 8
    if pad:
        bits = np.pad(bits, ((0, 0), (0, pad // bits.itemsize)))
    words = bits.view(np.uint64)
    odd = np.random.default_rng(20).integers(0, 2**63, words.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    mixed = words ^ (words >> np.uint64(31))  # high bits of a float are nearly constant: bring them down
    hashed: NDArray[np.uint64] = np.einsum("ij,j->i", mixed, odd)
    return hashed


def _canonical(rows: NDArray[np.generic]) -> NDArray[np.generic]:
    """Merge -0.0 with 0.0: by adding 0.0, or bit by bit where bfloat16 came as uint16."""
    if rows.dtype == np.uint16:
        return np.where(rows == BFLOAT16_NEGATIVE_ZERO, 0, rows).astype(np.uint16)
    if rows.dtype.kind == "f":
        return np.asarray(np.add(rows, rows.dtype.type(0)))
    return rows


def _pieces(count: int, row_bytes: int) -> Iterator[slice]:
    """Cut `count` rows into slices of about CHUNK_BYTES."""
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    for start in range(0, count, step):
        yield slice(start, min(count, start + step))


def _in_shared(keys: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Whether each key occurs more than once."""
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse.reshape(-1)] > 1)


def _shared(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Indices of keys that occur more than once, by one sort."""
    order = np.argsort(keys)
    ranked = keys[order]
    equal = ranked[1:] == ranked[:-1]
    if not equal.any():
        return np.empty(0, dtype=np.int64)
    twice = np.zeros(keys.size, dtype=bool)
    twice[1:] |= equal
    twice[:-1] |= equal
    return np.sort(order[twice])


def near(
    rows: NDArray[np.floating],
    tolerance: float,
    *,
    scale: NDArray[np.floating] | float | None = None,
    classes: NDArray[np.int64] | None = None,
) -> Orbits:
    """Partition rows into classes that agree within a tolerance, every merge verified.

    Candidates come from one sorted random projection; two rows within `tolerance * scale` of each other lie that close
    on any unit direction, so none is missed. The other projections thin them out and the difference itself decides.

    Args:
        rows: (units, features).
        tolerance: Relative: distance over `scale`.
        scale: What distances are compared with, per unit or for all; the rows' own norms by default.
        classes: Units of different classes are never merged.

    Returns:
        The partition (connected components of "within tolerance of the class's first member").

    Example:
        >>> near(np.array([[1.0, 1.0], [1.0, 1.0 + 1e-9], [3.0, 1.0]]), 1e-5).labels.tolist()
        [0, 0, 1]
    """
    units, features = rows.shape
    labels = np.full(units, -1, dtype=np.int64)
    if units == 0 or features == 0:
        return Orbits(np.arange(units))
    wide = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=1) if scale is None else np.broadcast_to(np.asarray(scale, np.float64), (units,))
    reach = tolerance * norms + np.finfo(np.float64).eps * np.linalg.norm(wide, axis=1) * 4
    directions = np.random.default_rng(21).standard_normal((features, PROJECTIONS))
    shadow = wide @ (directions / np.linalg.norm(directions, axis=0))  # (units, PROJECTIONS)
    order = np.argsort(shadow[:, 0], kind="stable")
    along = shadow[order, 0]
    for position, unit in enumerate(order):
        if labels[unit] >= 0 or not np.isfinite(reach[unit]):
            continue
        labels[unit] = unit
        stop = int(np.searchsorted(along, along[position] + 2 * reach[unit], side="right"))
        near_by = order[position + 1 : stop]
        near_by = near_by[labels[near_by] < 0]
        if near_by.size == 0:
            continue
        bound = np.maximum(reach[unit], reach[near_by])
        near_by = near_by[(np.abs(shadow[near_by] - shadow[unit]) <= bound[:, None]).all(axis=1)]
        if classes is not None:
            near_by = near_by[classes[near_by] == classes[unit]]
        apart = np.linalg.norm(wide[near_by] - wide[unit], axis=1)
        labels[near_by[apart <= np.maximum(reach[unit], reach[near_by])]] = unit
    labels[labels < 0] = np.flatnonzero(labels < 0)
    return Orbits(numbered(labels))


def sign_pairs(rows: NDArray[np.floating], tolerance: float = 0.0) -> list[tuple[int, int]]:
    """Pairs of nonzero rows with w_i = -w_j, lower index first.

    Under an odd activation, (w, b, a) -> (-w, -b, -a) leaves the function as it is: a pair that it exchanges is locked
    for ever.

    Args:
        rows: (units, features), the bias as a column of its own.
        tolerance: Relative to the rows' norms; 0 asks for exact negatives.

    Returns:
        Each unit at most once.
    """
    wide = np.asarray(rows, dtype=np.float64)
    alive = np.abs(wide).max(axis=1, initial=0.0) > 0
    canonical = wide * _leading_sign(wide)[:, None]
    orbits = identical(canonical) if tolerance == 0 else near(canonical, tolerance)
    pairs: list[tuple[int, int]] = []
    for group in orbits.groups:
        members = [int(unit) for unit in group if alive[unit]]
        signs = _leading_sign(wide[members]) if members else np.empty(0)
        plus = [unit for unit, sign in zip(members, signs, strict=True) if sign > 0]
        minus = [unit for unit, sign in zip(members, signs, strict=True) if sign < 0]
        pairs.extend((min(pair), max(pair)) for pair in zip(plus, minus, strict=False))
    return sorted(pairs)


def _leading_sign(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sign of each row's largest entry (by size): negating the row negates it."""
    peak = np.abs(rows).argmax(axis=1)
    sign = np.sign(rows[np.arange(rows.shape[0]), peak])
    return np.asarray(np.where(sign == 0, 1.0, sign))
