"""A table as this check sees it, and the ledger of one step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nndiag.core.findings import Where
from nndiag.science import roofline, tables

if TYPE_CHECKING:
    from nndiag.science.tables import Extra, OptimizerCost

LABELS = {
    "sgd": "SGD", "momentum": "SGD with momentum", "nesterov": "SGD with Nesterov momentum", "adam": "Adam",
    "adamw": "AdamW", "adagrad": "Adagrad", "rmsprop": "RMSprop", "nadam": "NAdam", "adamax": "Adamax",
    "adadelta": "Adadelta", "radam": "RAdam", "adafactor": "Adafactor", "sparse_adam": "SparseAdam",
}  # fmt: skip
# torch's own learning rates, for sentences about decay when the user named none
DEFAULT_LR = {"adamax": 2e-3, "nadam": 2e-3, "adagrad": 1e-2, "rmsprop": 1e-2, "adadelta": 1.0, "adafactor": 1e-2}


@dataclass(frozen=True, slots=True)
class Optimizer:
    """The optimizer of one table."""

    options: tables.OptimizerOptions | None  # None: the user's own class
    label: str
    cost: OptimizerCost
    lr: float = 1e-3
    weight_decay: float = 0.0
    assumed: bool = False  # nobody named one

    @property
    def family(self) -> str:
        """The catalogue's word, "" for the user's own."""
        return self.options.name if self.options else ""

    @property
    def implementation(self) -> str:
        """for-loop, foreach or fused."""
        return self.options.implementation if self.options else tables.FOR_LOOP


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table with its use and its optimizer."""

    name: str
    rows: int
    dim: int
    optimizer: Optimizer
    lookups: int  # N per micro-batch
    unique: float  # U per step
    unique_how: str  # "measured" or the assumption
    itemsize: int = 4
    dtype: str = "float32"
    cls: str = ""
    sparse: bool = False  # its gradient really is sparse
    trainable: bool = True
    tied: tuple[str, ...] = ()
    bag: str = ""
    padding: int | None = None
    pooled: int = 0  # vectors that are averaged into one right after the lookup
    bagged: bool = False  # and never stand by themselves: an EmbeddingBag
    hot: bool = False  # a table in disguise: one-hot vectors are multiplied with it
    where: Where = field(default_factory=Where)

    @property
    def bytes(self) -> float:
        """Bytes of the weights."""
        return float(self.rows) * self.dim * self.itemsize

    @property
    def title(self) -> str:
        """The table in words: name and shape."""
        named = f"table '{self.name}' " if self.name else "table "
        return f"{named}({self.rows:,} x {self.dim})"

    @property
    def used(self) -> float:
        """Share of the rows that one step uses."""
        return min(self.unique / self.rows, 1.0)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What else passes over a gradient."""

    clip: bool = False
    gpus: int = 1
    accumulation: int = 1
    bucket_view: bool = False
    set_to_none: bool = True

    def extras(self, *, half: bool = False) -> tuple[Extra, ...]:
        """Passes outside the optimizer."""
        return tables.extra_passes(
            tables.Surroundings(
                set_to_none=self.set_to_none,
                clip=self.clip,
                master_copy=half,
                accumulation=self.accumulation,
                buckets=self.gpus > 1,
                bucket_view=self.bucket_view,
            )
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """Bytes of one step of one table."""

    optimizer: float  # moved by the optimizer
    surroundings: float  # zero-fill, clipping, buckets
    rows: float  # lookup and scatter of the rows themselves
    fresh: float  # of all these, written to new memory
    weights: float
    gradient: float
    state: float
    temporaries: float

    @property
    def moved(self) -> float:
        """Bytes moved per step."""
        return self.optimizer + self.surroundings + self.rows

    @property
    def resident(self) -> float:
        """Bytes held between and during steps."""
        return self.weights + self.gradient + self.state + self.temporaries

    def seconds(self, machine: roofline.Machine) -> float:
        """Roofline time: in-place bytes and fresh bytes at their own rates."""
        return roofline.seconds(machine, moved=self.moved - self.fresh, fresh=self.fresh)


def ledger(spec: TableSpec, around: Circumstances | None = None) -> Ledger:
    """Write down what one step of this table moves and holds.

    Args:
        spec: The table.
        around: Clipping, devices, accumulation.

    Returns:
        Bytes. A frozen table only serves lookups; a sparse one moves rows, though its state stays as tall as the table.
    """
    around = around or Circumstances()
    row = spec.dim * spec.itemsize
    lookups = spec.lookups * around.accumulation
    gather = (
        (1.0 if spec.bagged else 4.0 if spec.pooled else 2.0) * lookups * row
    )  # averaging reads, its gradient writes
    if not spec.trainable:
        return Ledger(0, 0, gather, 0, spec.bytes, 0, 0, 0)
    cost = spec.optimizer.cost
    if spec.sparse:
        family = {"momentum": "sgd", "nesterov": "sgd"}.get(spec.optimizer.family, spec.optimizer.family)
        known = family if family in tables.SPARSE_PASSES else "sparse_adam"
        moved = tables.sparse_bytes(known, spec.dim, lookups, spec.unique, spec.itemsize)
        state = tables.SPARSE_STATE[known] * spec.bytes
        return Ledger(moved, 0, gather, 0, spec.bytes, lookups * row, state, 0)
    extras = around.extras(half=spec.itemsize < 4)
    if spec.hot:  # one-hot vectors are written, and read forward and backward; the product writes its gradient blind
        gather += 3.0 * lookups * spec.rows * spec.itemsize
    return Ledger(
        optimizer=cost.passes * spec.bytes,
        surroundings=sum(extra.passes for extra in extras) * spec.bytes,
        rows=gather + (2.0 if spec.bagged else 3.0) * lookups * row,
        fresh=(cost.fresh + sum(extra.fresh for extra in extras)) * spec.bytes,
        weights=spec.bytes,
        gradient=spec.bytes,
        state=cost.state * spec.bytes,
        temporaries=cost.temporaries * spec.bytes,
    )


def with_optimizer(spec: TableSpec, options: tables.OptimizerOptions) -> TableSpec:
    """Return the table under another implementation or optimizer of the catalogue."""
    cost = tables.optimizer_cost(options)
    return replace(spec, optimizer=replace(spec.optimizer, options=options, cost=cost, label=label_of(options)))


def label_of(options: tables.OptimizerOptions) -> str:
    """Name an optimizer and its implementation: "Adam (for-loop)"."""
    return f"{LABELS[options.name]} ({options.implementation})"


def sparse_optimizer(family: str) -> str:
    """Return the optimizer that takes sparse gradients and is nearest to this one."""
    return family if family in {"sgd", "adagrad"} else "sparse_adam"
