"""What is known of the targets after one pass: moments, and the values that occur where they are few."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nndiag.science import moments as m

if TYPE_CHECKING:
    from nndiag.science.moments import Array

TARGETS_KEPT = 100_000
DISTINCT = 1000


@dataclass(frozen=True, slots=True)
class Targets:
    """What is known of the targets after one pass."""

    dtype: str
    shape: tuple[int, ...]  # of one row
    moments: m.Moments
    sample: Array  # (kept,) values, flattened
    distinct: tuple[float, ...] | None  # all values that occur, None when there are too many
    counts: tuple[int, ...] = ()

    @property
    def floating(self) -> bool:
        """Whether they came as floating-point numbers."""
        return "float" in self.dtype


class TargetCollector:
    """Moments, values and classes of a stream of targets."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._dtype, self._shape = "", ()  # type: tuple[str, tuple[int, ...]]
        self._moments: m.Moments | None = None
        self._kept: list[Array] = []
        self._held = 0
        self._values: Array | None = np.empty(0)
        self._counts: Array = np.empty(0)

    def add(self, values: Array) -> None:
        """Take in the targets of some rows."""
        if values.size == 0 or values.dtype.kind not in "biuf":
            return
        if self._moments is None:
            self._dtype, self._shape = str(values.dtype), values.shape[1:]
        flat = values.reshape(-1, 1)
        part = m.moments(flat)
        self._moments = part if self._moments is None else m.merge(self._moments, part)
        if self._held < TARGETS_KEPT:
            self._kept.append(np.array(flat[: TARGETS_KEPT - self._held, 0], dtype=np.float64))
            self._held += len(self._kept[-1])
        self._count(flat[:, 0])

    def _count(self, flat: Array) -> None:
        """Keep the values that occur, as long as they are few."""
        if self._values is None:
            return
        new, counts = np.unique(flat[np.isfinite(flat)], return_counts=True)
        both = np.concatenate([self._values, new])
        values, inverse = np.unique(both, return_inverse=True)
        if len(values) > DISTINCT:
            self._values = None
            return
        self._counts = np.bincount(inverse, weights=np.concatenate([self._counts, counts]))
        self._values = values

    def result(self) -> Targets | None:
        """Return what was seen, or None when there were no numeric targets."""
        if self._moments is None:
            return None
        few = self._values is not None
        return Targets(
            self._dtype,
            self._shape,
            self._moments,
            np.concatenate(self._kept),
            tuple(map(float, self._values)) if self._values is not None else None,
            tuple(map(int, self._counts)) if few else (),
        )


def join_targets(parts: list[Targets]) -> Targets | None:
    """Join what several ranks saw."""
    if not parts:
        return None
    moments = parts[0].moments
    for part in parts[1:]:
        moments = m.merge(moments, part.moments)
    distinct: tuple[float, ...] | None = None
    counts: dict[float, int] = {}
    if all(part.distinct is not None for part in parts):
        for value, count in itertools.chain.from_iterable(
            zip(part.distinct or (), part.counts, strict=True) for part in parts
        ):
            counts[value] = counts.get(value, 0) + count
        distinct = tuple(sorted(counts)) if len(counts) <= DISTINCT else None
    return Targets(
        parts[0].dtype,
        parts[0].shape,
        moments,
        np.concatenate([part.sample for part in parts])[:TARGETS_KEPT],
        distinct,
        tuple(counts[value] for value in distinct) if distinct is not None else (),
    )
