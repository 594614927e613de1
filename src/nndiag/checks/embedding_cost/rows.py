"""Are the rows that are paid for ever used? EMB003 never, EMB004 rarely, EMB005 shrinking, EMB011 outside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.checks.embedding_cost.words import percent, size
from nndiag.core.findings import Evidence, Judged, Measurement, Series, Severity, Skip, Table
from nndiag.core.rules import found
from nndiag.science import zipf
from nndiag.science.tables_rows import unseen_shrinkage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.embedding_cost.spec import TableSpec
    from nndiag.core.findings import Observation
    from nndiag.science.zipf_stream import RowCounts

SATURATED = 0.02  # Good-Turing: at most this share of the next lookups would be new rows
SHRINKS = 0.05  # a never-seen row that loses this share of its length is no longer where it was put
LONG_RUN = 100_000  # steps that a run without a stated length is taken to last


@dataclass(frozen=True, slots=True)
class RowJudge:
    """Thresholds and the training that the counts are judged against."""

    max_never_seen: float
    max_rare: float
    min_updates: int
    small_rows: int
    steps: int | None
    source: str  # the file or loader that was counted

    def judge(self, spec: TableSpec, counts: RowCounts, *, words: bool = False) -> Iterator[Observation]:
        """Yield everything that the counts say about one table."""
        yield from _numbers(spec, counts)
        if words:
            yield Skip("EMB011", "words have no ids yet", spec.name)
        else:
            yield from self.outside(spec, counts, self.source)
        if not counts.lookups:
            yield Skip("EMB003", "no id lies inside the table", spec.name)
            return
        if spec.rows < self.small_rows:
            yield from (Judged(code) for code in ("EMB003", "EMB004", "EMB005"))
            return
        yield from self._never(spec, counts)
        yield from self._rare(spec, counts)
        yield from self._decay(spec, counts)

    @staticmethod
    def outside(spec: TableSpec, counts: RowCounts, source: str) -> Iterator[Observation]:
        """Yield EMB011 alone."""
        yield Judged("EMB011")
        outside = counts.below + counts.above
        if not outside:
            return
        first = ", ".join(f"{value} at {place}" for place, value in counts.offenders)
        ends = []
        if counts.above:
            ends.append(f"{counts.above:,} at or above {spec.rows:,}")
        if counts.below:
            ends.append(f"{counts.below:,} negative")
        needed = max(counts.highest + 1, spec.rows)
        negative = "; -100 and other ignore marks belong in the labels, not in the ids" if counts.below else ""
        yield found(
            "EMB011",
            f"{outside:,} of {outside + counts.lookups:,} ids lie outside {spec.title}: {' and '.join(ends)}",
            where=spec.where,
            evidence=Evidence(
                value=float(counts.highest if counts.above else counts.lowest),
                unit="id",
                threshold=float(spec.rows - 1 if counts.above else 0),
                n={"ids": outside + counts.lookups, "outside": outside},
                detail=f"first offenders (id at position): {first}; in {source}",
            ),
            means="the lookup raises IndexError on a CPU; on a GPU a device-side assert stops the whole process",
            fix=f"build the table with {needed:,} rows, or map unknown words to one id before the lookup{negative}"
            " (Keras: input_dim is the largest id plus one)",
        )

    def _never(self, spec: TableSpec, counts: RowCounts) -> Iterator[Observation]:
        yield Judged("EMB003")
        share = counts.never / counts.rows
        if share < self.max_never_seen:
            return
        settled = counts.missing_mass <= SATURATED
        held = counts.never * spec.dim * spec.itemsize * (2 + spec.optimizer.cost.state)
        more = (
            "" if settled else f"; this text is a sample: {percent(counts.missing_mass)} of further lookups will be new"
        )
        yield found(
            "EMB003",
            f"{counts.never:,} of {counts.rows:,} rows ({percent(share)}) never occur in {self.source}",
            where=spec.where,
            evidence=Evidence(
                value=share,
                unit="share of rows",
                threshold=self.max_never_seen,
                n={"ids": counts.lookups, "rows_seen": counts.seen},
                detail=f"they hold {size(held)} of weights, gradient and optimizer state{more}",
            ),
            means="these rows keep their random start, or drift under weight decay and stale momentum, and are paid "
            "for at every step",
            fix=f"build the vocabulary from this data ({counts.seen:,} rows) or keep only what occurs; pretrained rows "
            "that must stay can be frozen in a second table",
            severity=None if settled else Severity.NOTE,
        )

    def _rare(self, spec: TableSpec, counts: RowCounts) -> Iterator[Observation]:
        yield Judged("EMB004")
        epochs = self.steps / counts.batches if self.steps and counts.batches else 1.0
        rare = counts.rare(self.min_updates, epochs)
        share = rare / counts.rows
        if share < self.max_rare:
            return
        kept, served = zipf.kept_by_minimum(counts.updates, math.ceil(self.min_updates / epochs))
        over = f"{self.steps:,} planned steps" if self.steps else f"one pass over {self.source}"
        yield found(
            "EMB004",
            f"{rare:,} of {counts.rows:,} rows ({percent(share)}) get fewer than {self.min_updates} updates in {over}",
            where=spec.where,
            evidence=Evidence(
                value=share,
                unit="share of rows",
                threshold=self.max_rare,
                n={"batches": counts.batches, "ids": counts.lookups},
                detail=f"{percent(counts.never / counts.rows)} more are never seen",
            ),
            means=f"Adam moves a row by about one learning rate per update: after {self.min_updates} it is still its "
            "random start; such words act as noise",
            fix=f"a minimum count keeps {kept:,} rows and {percent(served)} of the lookups; else share rows by hashing "
            "or cut words into pieces",
            severity=None if self.steps else Severity.NOTE,
        )

    def _decay(self, spec: TableSpec, counts: RowCounts) -> Iterator[Observation]:
        yield Judged("EMB005")
        optimizer = spec.optimizer
        rate = optimizer.lr * optimizer.weight_decay
        if spec.sparse or not spec.trainable or rate <= 0 or counts.never / counts.rows < 0.01:
            return
        steps = self.steps or LONG_RUN
        settled = counts.missing_mass <= SATURATED
        left = unseen_shrinkage(optimizer.lr, optimizer.weight_decay, steps)
        if 1 - left < SHRINKS:
            return
        half = math.log(2) / -math.log1p(-rate) if rate < 1 else 0.0
        assumed = "" if self.steps else " (a length taken for granted: give --steps)"
        yield found(
            "EMB005",
            f"weight decay shrinks the {counts.never:,} rows that never occur to {left:.3g} of their length in "
            f"{steps:,} steps{assumed}",
            where=spec.where,
            evidence=Evidence(
                value=left,
                unit="share of length left",
                threshold=1 - SHRINKS,
                n={"steps": steps, "rows_never_seen": counts.never},
                detail=f"(1 - {optimizer.lr:g} * {optimizer.weight_decay:g})^steps; half gone after {half:,.0f} steps",
            ),
            means="no gradient ever answers the decay: pretrained or rarely used words fade although nothing was "
            "learned about them",
            fix="put the table into a parameter group with weight_decay=0 (Keras: exclude_from_weight_decay)",
            severity=None if settled else Severity.NOTE,  # a sample does not know what the rest holds
        )


def _numbers(spec: TableSpec, counts: RowCounts) -> Iterator[Observation]:
    where = spec.name
    yield Measurement("unique_rows_per_step", counts.unique, "rows", where)
    yield Measurement("rows_seen", counts.seen, "rows", where)
    if not counts.lookups:
        return
    fit = zipf.fit_zipf(counts.counts)
    if math.isfinite(fit.exponent):
        interval = (fit.exponent - 1.96 * fit.error, fit.exponent + 1.96 * fit.error)
        yield Measurement("zipf_exponent", fit.exponent, "none", where, interval if math.isfinite(fit.error) else None)
    shares = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
    rows = zipf.coverage(counts.counts, shares)
    yield Series("coverage", [float(item) for item in rows], list(shares), "share of lookups", "rows", group="coverage")
    kept = [(minimum, *zipf.kept_by_minimum(counts.counts, minimum)) for minimum in (1, 2, 5, 10, 50)]
    yield Table(
        f"what a minimum count keeps of {spec.name or 'the table'}",
        ("minimum count", "rows kept", "share of lookups"),
        [(minimum, rows_kept, round(served, 6)) for minimum, rows_kept, served in kept],
    )
    hashed = [(buckets, zipf.hash_collisions(counts.seen, buckets)) for buckets in _buckets(counts.seen)]
    yield Table(
        f"what hashing to fewer rows would share in {spec.name or 'the table'}",
        ("rows", "share of words that collide"),
        [(buckets, round(share, 4)) for buckets, share in hashed],
    )


def _buckets(seen: int) -> list[int]:
    return sorted({2 ** max(round(math.log2(max(seen, 2) * factor)), 1) for factor in (0.1, 0.5, 1, 4)})
