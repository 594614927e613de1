"""Streaming totals over label rows and over losses: one pass, bounded memory, float64 sums."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nndiag.science.entropy import kl, row_floor, ulp, xlogx

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

KEEP = 1 << 20  # values kept for quantiles
FINE = 1 << 16  # a float32 chunk with more numbers than this is summed in float32
NONFINITE, NEGATIVE, ZERO, OFF_SUM = "nonfinite", "negative", "all zero", "sum"
WORST = 5


@dataclass
class Spread:
    """Values in order of arrival, thinned by halves once there are more than `KEEP`."""

    stride: int = 1
    parts: list[Floats] = field(default_factory=list)
    held: int = 0
    arrived: int = 0

    def add(self, values: Floats) -> None:
        """Keep every `stride`-th value."""
        kept = values[-self.arrived % self.stride :: self.stride]
        self.arrived += len(values)
        self.parts.append(np.array(kept))
        self.held += len(kept)
        if self.held > KEEP:
            whole = np.concatenate(self.parts)[::2]
            self.stride *= 2
            self.parts, self.held = [whole], len(whole)

    @property
    def values(self) -> Floats:
        """What is kept."""
        return np.concatenate(self.parts) if self.parts else np.empty(0)


@dataclass
class Mean:
    """A mean and its standard error, from sums."""

    n: int = 0
    origin: float = 0.0  # the first value: sums of differences from it lose no digits
    total: float = 0.0
    square: float = 0.0

    def add(self, values: Floats) -> None:
        """Add values in float64."""
        if not self.n and len(values) and math.isfinite(values[0]):
            self.origin = float(values[0])
        self.n += len(values)
        away = values - values.dtype.type(self.origin)
        self.total += float(away.sum(dtype=np.float64))
        self.square += float(np.einsum("i,i->", away, away, dtype=np.float64))

    @property
    def mean(self) -> float:
        """The mean, NaN of nothing."""
        return float(self.origin + self.total / self.n) if self.n else math.nan

    @property
    def se(self) -> float:
        """Standard error of the mean; NaN for one value."""
        if self.n < 2:
            return math.nan
        variance = max(self.square - self.total**2 / self.n, 0.0) / (self.n - 1)
        return float(math.sqrt(variance / self.n))


@dataclass
class LabelTotals:
    """What label rows add up to, and which rows are no distributions.

    Args:
        classes: Columns.
        tolerance: By how much a row's sum may differ from one.
    """

    classes: int
    tolerance: float
    rows: int = 0
    floor: Mean = field(default_factory=Mean)
    spread: Spread = field(default_factory=Spread)
    column: Floats = field(default_factory=lambda: np.zeros(0))  # sum of target rows (classes,)
    gini: float = 0.0  # sum of W (1 - sum(p^2)) with p = u/W
    certain: int = 0  # rows that put all on one class
    bad: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    low: float = math.inf  # smallest and largest row sum
    high: float = -math.inf
    least: float = math.inf  # smallest entry
    integral: bool = True  # whether every entry is a whole number

    def __post_init__(self) -> None:
        """Start the column sums."""
        if not len(self.column):
            self.column = np.zeros(self.classes)

    def screen(self, q: Floats) -> Floats:
        """Count the rows that are no distributions; return the mask of the usable ones.

        Args:
            q: Rows (rows, classes) as they came.

        Returns:
            Mask (rows,): finite, without negative entries, not all zero. A wrong sum is counted and still usable.
        """
        sums = q @ np.ones(self.classes, dtype=q.dtype)
        least, low, high = float(q.min(initial=np.inf)), float(sums.min()), float(sums.max())
        start, self.rows = self.rows, self.rows + len(q)
        if math.isfinite(low) and math.isfinite(high):
            self.low, self.high = min(self.low, low), max(self.high, high)
            self.least = min(self.least, least)
        if least >= 0 and 1.0 - low <= self.tolerance and high - 1.0 <= self.tolerance:
            self.integral = self.integral and bool((q == np.rint(q)).all())
            return np.ones(len(q), dtype=np.bool_)
        return self._count(q, start)

    def _count(self, q: Floats, start: int) -> Floats:
        finite = np.isfinite(q).all(1)
        negative = finite & (q < 0).any(1)
        zero = finite & ~negative & (q == 0).all(1)
        usable = finite & ~negative & ~zero
        sums = q.sum(1, dtype=np.float64)
        allowed = max(self.tolerance, text_tolerance(q[usable]))
        off = usable & (np.abs(sums - 1.0) > allowed)
        for kind, rows in ((NONFINITE, ~finite), (NEGATIVE, negative), (ZERO, zero), (OFF_SUM, off)):
            if rows.any():
                self.bad[kind] = self.bad.get(kind, 0) + int(rows.sum())
                self.first.setdefault(kind, start + int(rows.argmax()))
        self.integral = self.integral and bool((q[finite] == np.rint(q[finite])).all())
        return np.asarray(usable)

    def add(self, u: Floats, scale: float = 1.0, *, weighted: bool = False) -> None:
        """Add usable target rows, after smoothing, weights and temperature.

        Args:
            u: Target rows (rows, classes).
            scale: Factor of the loss (the square of a distillation temperature).
            weighted: Whether rows do not sum to one because class weights were multiplied in.
        """
        if not len(u):
            return
        if u.dtype == np.float32 and u.size > FINE:  # float32 logarithms, float64 sums: 1e-8 in the mean
            ones = np.ones(self.classes, dtype=u.dtype)
            floors = -(xlogx(u) @ ones)
        else:
            floors = row_floor(u)
        if scale != 1.0:
            floors = floors * scale
        self.floor.add(floors)
        self.spread.add(floors)
        self.column += np.ones(len(u), dtype=u.dtype) @ u
        self.gini += _curvature(u) if weighted else len(u) - float(np.vdot(u, u))
        self.certain += int((floors == 0).sum())


def _curvature(u: Floats) -> float:
    """Sum over the rows of W - sum(u^2)/W: twice the KL of a unit logit error, W = sum(u)."""
    total = u.sum(1)
    return float((total - np.einsum("ij,ij->i", u, u) / np.where(total > 0, total, 1.0)).sum())


def text_tolerance(q: Floats) -> float:
    """Return by how much sums of rows may be off when every entry was rounded before it was stored.

    Rounding to d digits or to half precision moves each of C entries by up to half a step.
    """
    if not q.size:
        return 0.0
    sample = np.asarray(q[:1000], dtype=np.float64)
    classes = sample.shape[1]
    for places in range(1, 7):
        scaled = sample * 10.0**places
        if float(np.abs(scaled - np.rint(scaled)).max()) < 1e-7 * 10.0**places + 1e-9:
            return rounding_slack(classes, places)
    if np.array_equal(sample.astype(np.float16).astype(np.float64), sample):
        return float(classes * ulp(0.5, "float16"))
    if not bool((sample.astype(np.float32).view(np.uint32) & 0xFFFF).any()):
        return float(classes * ulp(0.5, "bfloat16"))
    return 0.0


def rounding_slack(classes: int, places: int) -> float:
    """Return by how much the sum of entries rounded to some digits may be off.

    Half a unit each at worst; for many classes the errors cancel like random ones (sd 1/sqrt(12) unit each), whose six
    standard deviations no row of millions exceeds. Labels of one digit are taken as exact: nobody rounds 1/3 to 0.3.
    """
    units = min(0.5 * classes, max(10.0, 6.0 * math.sqrt(classes / 12.0)))
    return units * 10.0**-places if places > 1 else 0.0


@dataclass
class LossTotals:
    """What the losses of predictions add up to against their floors."""

    classes: int
    loss: Mean = field(default_factory=Mean)
    divergence: Mean = field(default_factory=Mean)
    spread: Spread = field(default_factory=Spread)
    worst: list[tuple[float, int]] = field(default_factory=list)
    column: Floats = field(default_factory=lambda: np.zeros(0))
    entropy: float = 0.0  # sum of the predictions' own entropies
    agree: int = 0
    infinite: int = 0
    error: float = 0.0  # largest |p - u/W|
    exact_shift: float = 0.0  # what the rows' wrong sums would still take off the sum of losses
    rows: int = 0

    def __post_init__(self) -> None:
        """Start the column sums."""
        if not len(self.column):
            self.column = np.zeros(self.classes)

    def add(
        self, u: Floats, log_p: Floats, surplus: Floats | None = None, scale: float = 1.0, rows: Floats | None = None
    ) -> None:
        """Add rows.

        Args:
            u: Target rows (rows, classes).
            log_p: Log probabilities (rows, classes), normalised.
            surplus: log of each row's sum before it was normalised (rows,): probabilities are not always exact.
            scale: Factor of the loss.
            rows: Numbers of the rows in their file (rows,), for naming the worst.
        """
        divergence = kl(u, log_p)
        total = u.sum(1)
        if surplus is not None:
            # the loss is taken of the numbers as they stand; the shift is part of KL where it is not all of it
            shift = total * surplus
            small = np.abs(shift) < 0.5 * divergence
            self.exact_shift += float(shift[~small].sum()) * scale
            divergence = np.where(small, divergence - shift, divergence)
        self.record(divergence * scale, scale * row_floor(u), log_p, u / total[:, None], rows)

    def record(self, excess: Floats, floors: Floats, log_p: Floats, best: Floats, rows: Floats | None = None) -> None:
        """Add rows whose excess over their floors is known.

        Args:
            excess: Loss less floor (rows,).
            floors: Least loss of each row (rows,).
            log_p: Log probabilities (rows, classes), normalised.
            best: The probabilities of the least loss (rows, classes).
            rows: Numbers of the rows in their file (rows,), for naming the worst.
        """
        self.rows += len(excess)
        self.infinite += int(np.isinf(excess).sum())
        self.loss.add(excess + floors)
        self.divergence.add(excess)
        self.spread.add(excess)
        self._note_worst(excess, rows)
        p = np.exp(log_p)
        self.column += p.sum(0)
        self.entropy -= float(xlogx(p).sum())
        self.agree += int((p.argmax(1) == best.argmax(1)).sum())
        self.error = max(self.error, float(np.abs(p - best).max()))

    def add_hard(
        self, ids: Floats, log_p: Floats, surplus: Floats | None = None, scale: float = 1.0, rows: Floats | None = None
    ) -> None:
        """Add rows whose labels are certain: the loss of each is -log p of its class, all of it removable."""
        right = log_p[np.arange(len(ids)), ids]
        losses = (-right if surplus is None else -(right + surplus)) * scale
        self.rows += len(ids)
        self.infinite += int(np.isinf(losses).sum())
        self.loss.add(losses)
        self.divergence.add(losses)
        self.spread.add(losses)
        self._note_worst(losses, rows)
        p = np.exp(log_p)
        self.column += p.sum(0)
        self.entropy -= float(xlogx(p).sum())
        self.agree += int((p.argmax(1) == ids).sum())
        self.error = max(self.error, float(1.0 - np.exp(right.min())))

    def _note_worst(self, divergence: Floats, rows: Floats | None) -> None:
        order = np.argsort(-divergence, kind="stable")[:WORST]
        found = [(float(divergence[i]), int(i if rows is None else rows[i])) for i in order]
        self.worst = sorted([*self.worst, *found], key=lambda item: (-item[0], item[1]))[:WORST]

    @property
    def information(self) -> float:
        """How much the predictions depend on the input, nats: H(mean p) - mean H(p)."""
        mean = self.column / self.rows
        return float(row_floor(mean[None])[0]) - self.entropy / self.rows
