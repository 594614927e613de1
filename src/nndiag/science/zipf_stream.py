"""Which rows did a corpus touch? Counted in one pass, in memory that grows with the table and not with the corpus."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

OFFENDERS_KEPT = 5


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How often each row was looked up, and in how many batches."""

    rows: int  # V
    lookups: int  # ids inside the table
    batches: int
    unique: float  # mean distinct rows per full batch
    unique_std: float
    counts: NDArray[np.int64]  # (highest id + 1,) lookups per row
    updates: NDArray[np.int64]  # (highest id + 1,) batches per row
    below: int = 0  # ids under zero
    above: int = 0  # ids at or beyond V
    offenders: tuple[tuple[int, int], ...] = ()  # (position, id), the first few
    highest: int = -1
    lowest: int = 0

    @property
    def seen(self) -> int:
        """Rows that occur at least once."""
        return int((self.counts > 0).sum())

    @property
    def never(self) -> int:
        """Rows that do not occur."""
        return self.rows - self.seen

    @property
    def missing_mass(self) -> float:
        """Good-Turing: the share of the next lookups that will hit rows not seen so far (rows seen once / lookups)."""
        return float((self.counts == 1).sum() / self.lookups) if self.lookups else 1.0

    def rare(self, fewest: int, epochs: float = 1.0) -> int:
        """Rows that occur, but in fewer than `fewest` batches over so many passes."""
        return int(((self.updates > 0) & (self.updates * epochs < fewest)).sum())


@dataclass
class RowCounter:
    """Counts a stream of ids.

    Args:
        rows: V; None takes whatever occurs.
        batch: N, ids per batch.
    """

    rows: int | None
    batch: int
    _counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1024, np.int64))
    _updates: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1024, np.int64))
    _rest: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _unique: list[int] = field(default_factory=list)
    _offenders: list[tuple[int, int]] = field(default_factory=list)
    _partial: int = 0
    _position: int = 0
    _below: int = 0
    _above: int = 0
    _highest: int = -1
    _lowest: int = 0

    def feed(self, ids: NDArray[np.int64]) -> None:
        """Take the next ids (n,), cutting them into batches of N."""
        together = np.concatenate([self._rest, ids]) if self._rest.size else ids
        whole = together.size // self.batch * self.batch
        for start in range(0, whole, self.batch):
            self.feed_batch(together[start : start + self.batch])
        self._rest = together[whole:].copy()

    def feed_batch(self, ids: NDArray[np.int64], *, full: bool = True) -> None:
        """Take one batch as it is."""
        if not ids.size:
            return
        high = self.rows if self.rows is not None else np.iinfo(np.int64).max
        outside = (ids < 0) | (ids >= high)
        self._highest = max(self._highest, int(ids.max()))
        self._lowest = min(self._lowest, int(ids.min()))
        if outside.any():
            self._below += int((ids < 0).sum())
            self._above += int((ids >= high).sum())
            for place in np.flatnonzero(outside)[: OFFENDERS_KEPT - len(self._offenders)]:
                self._offenders.append((self._position + int(place), int(ids[place])))
        self._position += ids.size
        kept = ids[~outside]
        found, often = np.unique(kept, return_counts=True)
        if found.size:
            self._grow(int(found[-1]) + 1)
            self._counts[found] += often
            self._updates[found] += 1
        if full:
            self._unique.append(found.size)
        else:
            self._partial += 1

    def result(self) -> RowCounts:
        """Return the counts; a last, shorter batch counts as a batch but not for the mean of distinct rows."""
        if self._rest.size:
            self.feed_batch(self._rest, full=not self._unique)
            self._rest = np.empty(0, np.int64)
        end = max(self._highest + 1, 1)
        rows = self.rows if self.rows is not None else max(self._highest + 1, 0)
        unique = np.asarray(self._unique or [0], dtype=np.float64)
        counts, updates = self._counts[:end].copy(), self._updates[:end].copy()
        return RowCounts(
            rows=rows,
            lookups=int(counts.sum()),
            batches=len(self._unique) + self._partial,
            unique=float(unique.mean()),
            unique_std=float(unique.std(ddof=1)) if unique.size > 1 else 0.0,
            counts=counts,
            updates=updates,
            below=self._below,
            above=self._above,
            offenders=tuple(self._offenders),
            highest=self._highest,
            lowest=self._lowest,
        )

    def _grow(self, size: int) -> None:
        if size > self._counts.size:
            larger = max(size, 2 * self._counts.size)
            if self.rows is not None:
                larger = max(min(larger, self.rows), size)
            self._counts = np.concatenate([self._counts, np.zeros(larger - self._counts.size, np.int64)])
            self._updates = np.concatenate([self._updates, np.zeros(larger - self._updates.size, np.int64)])


def count_rows(chunks: Iterable[NDArray[np.int64]], batch: int, rows: int | None = None) -> RowCounts:
    """Count a whole stream.

    Args:
        chunks: One-dimensional arrays of ids, of any lengths.
        batch: N.
        rows: V; without it, every non-negative id counts as inside.

    Returns:
        The counts.
    """
    counter = RowCounter(rows, batch)
    for chunk in chunks:
        counter.feed(chunk)
    return counter.result()
