"""What would help and change what is learned? Sparse gradients, other optimizers for the table, fewer numbers in it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nndiag.checks.embedding_cost.cures import CHANGED, KEPT, Cure
from nndiag.checks.embedding_cost.spec import LABELS, Circumstances, TableSpec, sparse_optimizer, with_optimizer
from nndiag.science import tables, tables_layers
from nndiag.science.tables_rows import adam_late_move, sparse_adam_late_move

if TYPE_CHECKING:
    from collections.abc import Iterator

FACTOR = 4  # a factorised table is this many times narrower
BUCKETS = 10  # a hashed table has this many times fewer rows
TRAINABLE = 0.05  # of the rows stay trainable beside a frozen pretrained table
SPARSE = ("sparse_adam", "adagrad", "sgd")  # what takes sparse gradients, nearest to Adam first


def different(spec: TableSpec, around: Circumstances, kept_rows: int | None) -> Iterator[Cure]:
    """Yield the alternatives that change the step; one whose gradient is sparse already only has fewer rows to gain."""
    if spec.sparse:
        yield from (cure for cure in _fewer(spec, around, kept_rows) if cure.key != "factorised")
        return
    if not spec.tied:
        nearest = sparse_optimizer(spec.optimizer.family)
        for family in sorted(SPARSE, key=lambda name: name != nearest):
            yield _sparse(spec, around, family, nearest=family == nearest)
        yield _row_wise(spec, around)
    if spec.optimizer.cost.passes > 3:
        yield _split(spec, around)
    yield from _fewer(spec, around, kept_rows)


def _sparse(spec: TableSpec, around: Circumstances, family: str, *, nearest: bool) -> Cure:
    label = LABELS[family]
    meaning = {
        "sgd": "same update of the used rows; no weight decay, no momentum (its buffer would grow)",
        "adagrad": "same update; no weight decay",
        "sparse_adam": "lazy moments: a late isolated touch moves a row "
        f"{sparse_adam_late_move():.3g} lr, not {adam_late_move():.3g}; no weight decay; own optimizer for the table",
    }[family]
    if not nearest:
        meaning = {
            "sgd": "another optimizer for the table: no moments, a rate of its own; no weight decay, no momentum",
            "adagrad": "another optimizer for the table: rates only fall; no weight decay",
        }.get(family, meaning)
    if around.clip:
        meaning += "; clip_grad_norm_ raises on sparse gradients, so leave the table out of it"
    keeps = nearest and family != "sparse_adam" and not spec.optimizer.weight_decay and not around.clip
    keeps = keeps and not (spec.optimizer.options and spec.optimizer.options.momentum)
    optimizer = replace(
        spec.optimizer, options=tables.OptimizerOptions(family), label=label, cost=tables.OptimizerCost(0, 0, 0, 0, 2)
    )
    return Cure(
        "sparse" if nearest else f"sparse-{family}",
        f"sparse=True + {label}",
        KEPT if keeps else CHANGED,
        meaning,
        replace(spec, sparse=True, optimizer=optimizer),
        replace(around, clip=False),
    )


def _row_wise(spec: TableSpec, around: Circumstances) -> Cure:
    return Cure(
        "row-wise",
        "row-wise Adagrad, sparse",
        CHANGED,
        "another optimizer: one rate per row, V numbers of state instead of "
        f"{spec.optimizer.cost.state:g} V D; rates only fall",
        replace(
            spec,
            sparse=True,
            optimizer=replace(
                spec.optimizer,
                options=tables.OptimizerOptions("adagrad"),
                label="row-wise Adagrad",
                cost=tables.OptimizerCost(0, 0, 0, 0, 1 / spec.dim),
            ),
        ),
        replace(around, clip=False),
    )


def _split(spec: TableSpec, around: Circumstances) -> Cure:
    """The one change of optimizer that tied tables, clipping and weight decay allow."""
    plain = tables.OptimizerOptions("sgd", weight_decay=0.0)
    return Cure(
        "split",
        "split: SGD for the table alone",
        CHANGED,
        f"the rest keeps {spec.optimizer.label}; the table has no moments and needs a rate of its own; its gradient "
        "stays dense, so clipping and tied weights still work",
        with_optimizer(spec, plain),
        around,
    )


def _fewer(spec: TableSpec, around: Circumstances, kept_rows: int | None) -> Iterator[Cure]:
    small = max(int(spec.rows * TRAINABLE), 1)
    yield Cure(
        "frozen",
        f"frozen table + {small:,} trainable rows",
        CHANGED,
        "needs pretrained rows; only the small table learns",
        replace(spec, rows=small, unique=min(spec.unique, small)),
        around,
        frozen=spec.rows,
    )
    width = max(spec.dim // FACTOR, 1)
    yield Cure(
        "factorised",
        f"factorised: V x {width}, then {width} x {spec.dim}",
        CHANGED,
        f"rank at most {width}; one small matrix product more",
        replace(spec, dim=width),
        around,
        flops=tables_layers.dense_step_flops(width * spec.dim, spec.lookups * around.accumulation),
        project=spec.dim,
    )
    rows = max(spec.rows // BUCKETS, 1)
    yield Cure(
        "hashed",
        f"hashing to {rows:,} rows",
        CHANGED,
        f"about {BUCKETS} words share a row where all occur",
        replace(spec, rows=rows, unique=min(spec.unique, rows)),
        around,
    )
    if kept_rows is not None and 0 < kept_rows < spec.rows:
        yield Cure(
            "minimum-count",
            f"minimum count: {kept_rows:,} rows",
            CHANGED,
            "rarer words become one unknown word",
            replace(spec, rows=kept_rows, unique=min(spec.unique, kept_rows)),
            around,
        )
