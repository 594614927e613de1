"""What would help and keep the mathematics? Each cure with its bytes, its milliseconds and its meaning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nndiag.checks.embedding_cost.spec import LABELS, Circumstances, TableSpec, ledger, with_optimizer
from nndiag.science import roofline, tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.science.roofline import Machine

KEPT, CHANGED = True, False  # the mathematics of the step


@dataclass(frozen=True, slots=True)
class Cure:
    """One alternative to the present step of one table."""

    key: str  # what the clock tries: "current", "fused", …
    name: str
    keeps: bool  # the same mathematics
    meaning: str
    spec: TableSpec  # the table under the cure
    around: Circumstances
    flops: float = 0.0  # that it adds to a step
    project: int = 0  # a product widens its vectors to this
    frozen: int = 0  # rows of a fixed table beside it
    predicted: float = 0.0  # seconds by bytes and rates
    clock: float | None = None  # seconds, by the clock at this size or along the line through smaller ones
    measured: bool = False  # the clock ran at this very size
    interval: tuple[float, float] | None = None
    step: float | None = None  # seconds of the user's whole step under it
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
    from nndiag.checks.embedding_cost.alternatives import different

    now = Cure("current", f"now: {spec.optimizer.label}", keeps=True, meaning="", spec=spec, around=around)
    made = [now, *_same(spec, around), *different(spec, around, kept_rows)]
    return order([replace(cure, predicted=_predicted(cure, machine)) for cure in made])


def _predicted(cure: Cure, machine: Machine) -> float:
    return ledger(cure.spec, cure.around).seconds(machine) + roofline.seconds(machine, flops=cure.flops)


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
    if _bags(spec):
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
            "same mathematics; gradients are views of the buckets and must not be detached",
            spec,
            replace(around, bucket_view=True),
        )


def _bags(spec: TableSpec) -> bool:
    return bool(spec.pooled) and spec.padding is None and spec.lookups % spec.pooled == 0


def inapplicable(spec: TableSpec, around: Circumstances, *, counted: bool) -> list[tuple[str, str]]:
    """List the cures that this table cannot have, each with the reason: what is not offered is not forgotten."""
    options = spec.optimizer.options
    rows = []
    if options is None:
        rows.append(("fused=True, foreach=True", f"{spec.optimizer.label} is not torch's own"))
    elif options.implementation == tables.FUSED:
        rows.append(("fused=True", "in use"))
    elif tables.fused_twin(options) is None:
        rows.append(("fused=True", f"torch has no fused {LABELS[options.name]}"))
    if options is not None and options.implementation == tables.FOREACH:
        rows.append(("foreach=True", "in use"))
    if around.set_to_none:
        rows.append(("zero_grad(set_to_none=True)", "in use: torch's default (--no-set-to-none says otherwise)"))
    if not _bags(spec):
        behind = "an EmbeddingBag already" if spec.bag else "no mean or sum over the ids stands right behind the lookup"
        rows.append(("nn.EmbeddingBag", "padding would enter the mean" if spec.pooled and spec.padding else behind))
    if around.gpus < 2:
        rows.append(("gradient_as_bucket_view=True", "one device (--gpus says otherwise)"))
    if spec.tied:
        rows.append(("sparse=True", "the tied output layer keeps the gradient dense"))
    if not counted:
        rows.append(("minimum count", "needs ids: --tokens FILE, or DATA with a model"))
    return rows
