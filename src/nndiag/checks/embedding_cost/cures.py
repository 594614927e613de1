"""What would help, and what would it change? Each cure with its bytes, its milliseconds and its meaning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nndiag.checks.embedding_cost.spec import LABELS, Circumstances, TableSpec, ledger, sparse_optimizer, with_optimizer
from nndiag.science import tables
from nndiag.science.tables_rows import adam_late_move, sparse_adam_late_move

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.science.roofline import Machine

KEPT, CHANGED = True, False  # the mathematics of the step
FACTOR = 4  # a factorised table is this many times narrower
BUCKETS = 10  # a hashed table has this many times fewer rows
TRAINABLE = 0.05  # of the rows stay trainable beside a frozen pretrained table


@dataclass(frozen=True, slots=True)
class Cure:
    """One alternative to the present step of one table."""

    key: str  # what the clock tries: "current", "fused", …
    name: str
    keeps: bool  # the same mathematics
    meaning: str
    spec: TableSpec  # the table under the cure
    around: Circumstances
    predicted: float = 0.0  # seconds by bytes and rates
    clock: float | None = None  # seconds, by the clock at this size or along the line through smaller ones
    measured: bool = False  # the clock ran at this very size
    interval: tuple[float, float] | None = None
    executed: bool = False  # it ran on the user's model
    refused: str = ""  # what stopped it on the user's model

    @property
    def bytes(self) -> float:
        """Bytes moved per step."""
        return ledger(self.spec, self.around).moved

    @property
    def seconds(self) -> float:
        """The clock's time, else the predicted one."""
        return self.clock if self.clock is not None else self.predicted

    @property
    def how(self) -> str:
        """How `seconds` is known."""
        return "predicted" if self.clock is None else "measured" if self.measured else "extrapolated"


def cures(spec: TableSpec, around: Circumstances, machine: Machine, *, kept_rows: int | None) -> list[Cure]:
    """List the present step and its alternatives for one trainable dense table.

    Args:
        spec: The table as it is.
        around: Clipping, devices, accumulation.
        machine: Rates for the prediction.
        kept_rows: Rows that a minimum count would keep, where a corpus was counted.

    Returns:
        The current step first, then what keeps the mathematics, then the rest; each group fastest first.
    """
    now = Cure("current", f"now: {spec.optimizer.label}", keeps=True, meaning="", spec=spec, around=around)
    made = [now, *_same(spec, around), *_different(spec, around, kept_rows)]
    return order([replace(cure, predicted=ledger(cure.spec, cure.around).seconds(machine)) for cure in made])


def order(made: list[Cure]) -> list[Cure]:
    """Sort: the present step, then what keeps the mathematics by time, then the rest by time, refused ones last."""
    return sorted(made, key=lambda cure: (cure.key != "current", bool(cure.refused), not cure.keeps, cure.seconds))


def _same(spec: TableSpec, around: Circumstances) -> Iterator[Cure]:
    options = spec.optimizer.options
    if options is not None and not spec.sparse:
        if options.implementation != tables.FUSED and (twin := tables.fused_twin(options)) is not None:
            yield Cure(
                "fused", "fused=True", KEPT, "same mathematics, rounding aside", with_optimizer(spec, twin), around
            )
        if options.implementation == tables.FOR_LOOP and options.name in LABELS:
            each = replace(options, implementation=tables.FOREACH)
            yield Cure(
                "foreach",
                "foreach=True",
                KEPT,
                "same mathematics, fewer temporaries",
                with_optimizer(spec, each),
                around,
            )
    if not around.set_to_none and not spec.sparse:
        yield Cure(
            "set-to-none",
            "zero_grad(set_to_none=True)",
            KEPT,
            "same mathematics; a parameter without a gradient is skipped instead of stepped with zeros",
            spec,
            replace(around, set_to_none=True),
        )
    if spec.pooled and spec.padding is None and spec.lookups % spec.pooled == 0:
        yield Cure(
            "bag",
            "nn.EmbeddingBag for lookup and mean",
            KEPT,
            "same mathematics, rounding aside; the single vectors are never written",
            replace(spec, bagged=True),
            around,
        )
    if around.gpus > 1 and not around.bucket_view:
        yield Cure(
            "bucket-view",
            "gradient_as_bucket_view=True",
            KEPT,
            "same mathematics; gradients must not be detached",
            spec,
            replace(around, bucket_view=True),
        )


def _different(spec: TableSpec, around: Circumstances, kept_rows: int | None) -> Iterator[Cure]:
    family = sparse_optimizer(spec.optimizer.family)
    if not spec.tied:
        yield _sparse(spec, around, family)
        row_wise = tables.OptimizerCost(0, 0, 0, 0, 1 / spec.dim)
        yield Cure(
            "row-wise",
            "row-wise Adagrad, sparse",
            CHANGED,
            "another optimizer: one rate per row, V numbers of state instead of "
            f"{spec.optimizer.cost.state:g} V D; rates only fall",
            replace(
                spec,
                sparse=True,
                optimizer=replace(
                    spec.optimizer, options=tables.OptimizerOptions("adagrad"), label="row-wise Adagrad", cost=row_wise
                ),
            ),
            replace(around, clip=False),
        )
    small = max(int(spec.rows * TRAINABLE), 1)
    yield Cure(
        "frozen",
        f"frozen table + {small:,} trainable rows",
        CHANGED,
        "needs pretrained rows; only the small table learns",
        replace(spec, rows=small, unique=min(spec.unique, small)),
        around,
    )
    width = max(spec.dim // FACTOR, 1)
    yield Cure(
        "factorised",
        f"factorised: V x {width}, then {width} x {spec.dim}",
        CHANGED,
        f"rank at most {width}; one small matrix product more",
        replace(spec, dim=width),
        around,
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


def _sparse(spec: TableSpec, around: Circumstances, family: str) -> Cure:
    label = LABELS[family]
    meaning = {
        "sgd": "same update of the used rows; no weight decay, no momentum (its buffer would grow)",
        "adagrad": "same update; no weight decay",
        "sparse_adam": "lazy moments: a late isolated touch moves a row "
        f"{sparse_adam_late_move():.3g} lr, not {adam_late_move():.3g}; no weight decay; own optimizer for the table",
    }[family]
    if around.clip:
        meaning += "; clip_grad_norm_ raises on sparse gradients, so leave the table out of it"
    name = f"sparse=True + {label}"
    keeps = family != "sparse_adam" and not spec.optimizer.weight_decay and not around.clip
    keeps = keeps and not (spec.optimizer.options and spec.optimizer.options.momentum)
    optimizer = replace(
        spec.optimizer, options=tables.OptimizerOptions(family), label=label, cost=tables.OptimizerCost(0, 0, 0, 0, 2)
    )
    return Cure(
        "sparse", name, keeps, meaning, replace(spec, sparse=True, optimizer=optimizer), replace(around, clip=False)
    )
