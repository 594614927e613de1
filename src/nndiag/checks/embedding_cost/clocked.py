"""EMB101: the share of the step, read from the clock."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.checks.embedding_cost import makers, rules
from nndiag.checks.embedding_cost.cures import Cure
from nndiag.checks.embedding_cost.rules import Rest
from nndiag.checks.embedding_cost.spec import ledger
from nndiag.checks.embedding_cost.words import duration, percent, size
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Evidence, Judged, Measurement, Skip, Step
from nndiag.core.rules import found

if TYPE_CHECKING:
    from nndiag.checks.embedding_cost.check import EmbeddingCost
    from nndiag.checks.embedding_cost.model import ModelView
    from nndiag.checks.embedding_cost.spec import TableSpec
    from nndiag.checks.embedding_cost.timing import TableTiming, WholeStep
    from nndiag.core.findings import Observation
    from nndiag.core.subject import Subject
    from nndiag.science.roofline import Machine

SLOWEST_STEP = 4.0  # seconds: a step that would take longer is judged by arithmetic


@dataclass(frozen=True, slots=True)
class Clocked:
    """What the clock said about the costliest table."""

    machine: Machine
    table: TableTiming
    whole: WholeStep | None
    rest: Rest
    cures: list[Cure]

    @property
    def share(self) -> float:
        """The table's share of the step."""
        total = self.whole.seconds if self.whole else self.table.seconds + self.rest.seconds
        return min(self.table.seconds / max(total, 1e-12), 1.0)

    @property
    def taken(self) -> str:
        """The table's step in words: an extrapolated one says so."""
        return duration(self.table.seconds) + ("" if self.table.forecast.measured else " (extrapolated)")

    @property
    def step(self) -> float:
        """Seconds of the whole step."""
        return self.whole.seconds if self.whole else self.table.seconds + self.rest.seconds


def clocked(  # noqa: PLR0913, PLR0917 - the check's own parts, in its order
    check: EmbeddingCost,
    subject: Subject,
    view: ModelView | None,
    trained: list[TableSpec],
    costliest: TableSpec,
    kept: int | None,
) -> Generator[Observation, None, Clocked | str]:
    """Time the costliest table, its cures and the step around it.

    Returns:
        The result, or why there is none.
    """
    from nndiag.checks.embedding_cost import timing
    from nndiag.checks.embedding_cost.executed import execute
    from nndiag.lab.clock import measure_machine

    if reason := _too_much(subject, view) or _ranks_stand(check.gpus):
        return reason
    budget = min(subject.run.seconds_left, 30.0)
    yield Step("measuring this machine", 0.1)
    machine = measure_machine(subject.run.device)
    yield from _machine(machine)
    make = (
        makers.makers_from_name(costliest)
        if view is None
        else makers.makers_from_model(view, trained_index(view, costliest))
    )
    yield Step("timing the table", 0.2)
    try:
        table = timing.time_tables(
            costliest, check.around, machine, make, kept_rows=kept, device=subject.run.device,
            seconds=min(3.5, 0.3 * budget), clip=check.clip_grad_norm, seed=subject.run.seed,
        )  # fmt: skip
        whole: WholeStep | None = None
        if view is not None:
            yield Step("timing the whole step", 0.7)
            seconds = {costliest.name: table.seconds}
            for spec in trained:
                if spec is not costliest:
                    seconds[spec.name] = ledger(spec, check.around).seconds(machine)
            whole = timing.time_whole(
                subject, view, seconds, check.around, clip=check.clip_grad_norm, seconds=min(3.0, 0.2 * budget)
            )
    except NndiagError as error:
        return f"no step could be timed: {error.message}"
    except Exception as error:  # noqa: BLE001 - the user's step raises: sparse gradients under Adam, say
        return f"no step could be timed, it raises: {(str(error) or type(error).__name__).splitlines()[0]}"
    made = table.cures
    if view is not None and whole is not None:
        yield Step("running the cures on the model", 0.9)
        made = execute(
            subject, view, made, clip=check.clip_grad_norm, step=whole.timing.total.typical, seconds=0.4 * budget
        )
    if whole is not None:
        rest = Rest(max(whole.seconds - table.seconds, 0.0), "the rest of this model, measured", known=True)
    else:
        rest = rules.reference_rest(costliest, machine)
    result = Clocked(machine, table, whole, rest, made)
    yield from _verdict(check, subject, costliest, result)
    yield from _numbers(costliest, result)
    return result


def trained_index(view: ModelView, spec: TableSpec) -> int:
    """Place of a table among the model's."""
    return next(index for index, item in enumerate(view.specs) if item.name == spec.name)


def _too_much(subject: Subject, view: ModelView | None) -> str:
    """Why a real step should not be tried here, "" when it may."""
    from nndiag.checks.embedding_cost.timing import HOLD, held_bytes

    if subject.run.seconds_left < 2:
        return "the time budget is used up"
    if view is None:
        return ""
    held = held_bytes(view)
    if held > 2 * HOLD:
        return f"beside its tables the model would hold {size(held)} while training, more than is tried here"
    whole = sum(spec.bytes for spec, site in zip(view.specs, view.sites, strict=True) if not site.held)
    if whole > HOLD:
        return f"a table that is a bare parameter cannot be built with fewer rows: it alone takes {size(whole)}"
    tokens = max((spec.lookups for spec in view.specs), default=0)
    seconds = view.flops(tokens) / 40e9
    if subject.run.device.startswith("cpu") and seconds > SLOWEST_STEP:
        return f"one step would take about {duration(seconds)} on one core of this machine"
    return ""


def _ranks_stand(gpus: int) -> str:
    """Why gradients cannot go through buckets of our own, "" when they can: the other ranks would be waited for."""
    import torch.distributed as dist

    if gpus > 1 and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return f"a process group of {dist.get_world_size()} ranks stands already, and a step alone would wait for them"
    return ""


def _machine(machine: Machine) -> Generator[Observation, None, None]:
    yield Measurement("bandwidth_in_place", machine.stream, "bytes/s")
    yield Measurement("bandwidth_fresh_memory", machine.fresh, "bytes/s")
    yield Measurement("matrix_product_rate", machine.flops, "operations/s")


def _verdict(
    check: EmbeddingCost, subject: Subject, spec: TableSpec, result: Clocked
) -> Generator[Observation, None, None]:
    """EMB101, and EMB002 with the measured gain."""
    yield Judged("EMB101")
    yield Judged("EMB002")
    yield Skip("EMB001", "settled by the measured EMB101")
    limits = check.limits(subject.run.device, known=result.whole is not None)
    level = limits.level(spec.rows, result.share, result.table.seconds)
    if level is None or spec.sparse:
        return
    low, high = result.table.interval
    step = result.step
    beside = "" if result.whole else f"; beside {result.rest.how}"
    how = (
        f"measured at {spec.rows:,} rows"
        if result.table.forecast.measured
        else "extrapolated from "
        + ", ".join(f"{item.rows:,} rows ({duration(item.total.typical)})" for item in result.table.forecast.tried)
    )
    on_cpu = subject.run.device.startswith("cpu")
    moved = ledger(spec, check.around).moved
    words = f"{size(moved)} and {result.taken} per step, {percent(result.share)} of a step"
    evidence = Evidence(
        value=result.share,
        unit="share of step",
        interval=(min(low / step, 1.0), min(high / step, 1.0)),
        threshold=limits.warning,
        n={"sizes": len(result.table.forecast.tried), "repeats": result.table.forecast.tried[-1].total.repeats},
        seed=subject.run.seed,
        detail=f"the table's step {how}{', on one thread' * on_cpu}; the whole step {duration(step)}{beside}",
    )
    refused = {cure.key: cure.refused for cure in result.cures if cure.refused}
    yield rules.traffic_finding("EMB101", spec, check.around, level, (words, evidence), refused)
    fused = next((cure for cure in result.cures if cure.key == "fused" and not cure.refused), None)
    if fused is None or spec.rows < check.small_rows:
        return
    saved = result.table.seconds - fused.seconds
    if 1e3 * saved < limits.warning_ms or saved / step < limits.warning / 2:
        return
    tried = "; run on this model before it was advised" if fused.executed else ""
    yield found(
        "EMB002",
        f"fused=True takes the step of {spec.title} from {result.taken} to {duration(fused.seconds)} ({fused.how}): "
        f"{percent(1 - fused.spec.optimizer.cost.passes / max(spec.optimizer.cost.passes, 1))} "
        "fewer bytes, the same mathematics",
        where=spec.where,
        evidence=Evidence(
            value=float(spec.optimizer.cost.passes),
            unit="passes per step",
            threshold=float(fused.spec.optimizer.cost.passes),
            interval=None,
            detail=f"saves {duration(saved)}, {percent(saved / step)} of the step{tried}",
        ),
        means="every separate operation reads and writes the whole table again; one kernel does it in one sweep",
        fix="pass fused=True to the optimizer, also on a CPU (Keras: jit_compile=True fuses the update)",
    )


def _numbers(spec: TableSpec, result: Clocked) -> Generator[Observation, None, None]:
    name = spec.name
    yield Measurement("table_step", result.table.seconds * 1e3, "ms", name, _ms(result.table.interval))
    for part in ("forward", "backward", "optimizer"):
        yield Measurement(f"table_{part}", result.table.forecast.part(part) * 1e3, "ms", name)
    zero = spec.bytes / result.machine.fresh if not spec.sparse else 0.0
    yield Measurement("table_zero_fill", zero * 1e3, "ms", name)
    if result.whole is not None:
        yield Measurement("whole_step", result.whole.seconds * 1e3, "ms", "", _ms(result.whole.interval))
        yield Measurement("rest_of_model", max(result.whole.seconds - result.table.seconds, 0.0) * 1e3, "ms", "")
        yield Measurement("table_share_of_step", result.share, "share", name)


def _ms(interval: tuple[float, float]) -> tuple[float, float]:
    return interval[0] * 1e3, interval[1] * 1e3
