"""What arithmetic alone says: EMB001, EMB002, EMB006 to EMB008 and EMB010."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.checks.embedding_cost.spec import LABELS, Circumstances, ledger, sparse_optimizer, with_optimizer
from nndiag.checks.embedding_cost.words import duration, percent, size
from nndiag.core.findings import Evidence, Judged, Severity, Where
from nndiag.core.rules import found
from nndiag.science import tables, tables_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nndiag.checks.embedding_cost.spec import TableSpec
    from nndiag.core.findings import Observation
    from nndiag.science.roofline import Machine

REFERENCE_BLOCKS = 12  # transformer blocks as wide as the table: what stands behind a table that nobody showed us


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a cost is worth a word."""

    warning: float  # share of the step
    error: float
    warning_ms: float
    error_ms: float
    small_rows: int

    def level(self, rows: int, share: float, seconds: float) -> Severity | None:
        """Grade a cost: both its share and its milliseconds must be worth it; a small table is a note at most."""
        milliseconds = 1e3 * seconds
        if share >= self.error and milliseconds >= self.error_ms:
            level = Severity.ERROR
        elif share >= self.warning and milliseconds >= self.warning_ms:
            level = Severity.WARNING
        else:
            return None
        return Severity.NOTE if rows < self.small_rows else level


@dataclass(frozen=True, slots=True)
class Rest:
    """What stands beside the table in one step, in seconds, and how that is known."""

    seconds: float
    how: str
    known: bool  # of this model; otherwise a stand-in


def reference_rest(spec: TableSpec, machine: Machine) -> Rest:
    """Return the time of twelve transformer blocks as wide as the table: generous towards the table."""
    parameters = REFERENCE_BLOCKS * tables_layers.transformer_parameters(spec.dim)
    flops = tables_layers.dense_step_flops(parameters, spec.lookups)
    return Rest(
        flops / machine.flops, f"{REFERENCE_BLOCKS} transformer blocks as wide as the table, a stand-in", known=False
    )


def static_cost(
    spec: TableSpec, around: Circumstances, machine: Machine, rest: Rest, limits: Limits
) -> Iterator[Observation]:
    """EMB001 and EMB002 from bytes and assumed rates."""
    if not spec.trainable or spec.sparse:
        yield Judged("EMB001")
        yield Judged("EMB002")
        return
    lines = ledger(spec, around)
    seconds = lines.seconds(machine)
    share = seconds / (seconds + rest.seconds)
    yield Judged("EMB001")
    level = limits.level(spec.rows, share, seconds)
    if level is not None:
        yield traffic_finding(
            "EMB001", spec, around, level, _arithmetic(lines.moved, seconds, share, machine, rest, limits)
        )
    yield Judged("EMB002")
    yield from unfused(spec, around, machine, seconds + rest.seconds, limits)


def _arithmetic(  # noqa: PLR0913, PLR0917 - numbers for one sentence
    moved: float, seconds: float, share: float, machine: Machine, rest: Rest, limits: Limits
) -> tuple[str, Evidence]:
    beside = f"{percent(share)} of a step" if rest.known else f"{percent(share)} of a step beside {rest.how}"
    words = f"{size(moved)} per step, about {duration(seconds)} and {beside}"
    unknown = "" if rest.known else "; the true share needs the model"
    return words, Evidence(
        value=share,
        unit="share of step",
        threshold=limits.warning,
        detail=f"by arithmetic on {machine.name} (assumed); the rest: {rest.how}, {duration(rest.seconds)}{unknown}",
    )


def traffic_finding(  # noqa: PLR0913, PLR0917 - what one finding says
    code: str,
    spec: TableSpec,
    around: Circumstances,
    level: Severity,
    told: tuple[str, Evidence],
    refused: Mapping[str, str] | None = None,
) -> Observation:
    """Build EMB001, or EMB101 where a clock was read: what the model refused is then not advised."""
    refused = refused or {}
    words, evidence = told
    if spec.optimizer.cost.passes == 0:
        return _for_nobody(code, spec, min(level, Severity.WARNING), told)
    passes = spec.optimizer.cost.passes
    fused = "" if _fused_gain(spec, around) is None or "fused" in refused else "fused=True keeps the mathematics; "
    sparse = LABELS[sparse_optimizer(spec.optimizer.family)]
    sparse_fix = (
        "the tied output layer keeps the gradient dense: untie it, or sample the softmax; "
        if spec.tied
        else f"sparse=True with {sparse} does not run on this model ({refused['sparse']}); "
        if "sparse" in refused
        else f"sparse=True with {sparse} touches used rows only, at the price of lazy moments; "
    )
    return found(
        code,
        f"{spec.optimizer.label} passes {passes} times over {spec.title}: {words}, "
        f"while a step uses {percent(spec.used)} of its rows",
        where=spec.where,
        evidence=evidence,
        means="the gradient is dense: zeros are written, read and averaged for rows that no sample asked for, so a "
        "larger vocabulary slows every step",
        fix=f"{fused}{sparse_fix}else fewer rows (minimum count, hashing), or a frozen pretrained table with a small "
        "trainable one",
        severity=level,
    )


def _for_nobody(code: str, spec: TableSpec, level: Severity, told: tuple[str, Evidence]) -> Observation:
    """The table's gradient is made, and no optimizer holds the table."""
    words, evidence = told
    return found(
        code,
        f"the dense gradient of {spec.title} is made at every step and no optimizer uses it: {words}",
        where=spec.where,
        evidence=evidence,
        means="leaving a table out of the optimizer keeps it fixed, yet backward still fills a gradient of its size",
        fix="requires_grad_(False) on the table (Keras: trainable=False), or give it to the optimizer",
        severity=level,
    )


def _fused_gain(spec: TableSpec, around: Circumstances) -> float | None:
    """Bytes per step that the fused kernel saves, None where there is none or it is in use."""
    options = spec.optimizer.options
    if options is None or options.implementation == tables.FUSED or not spec.dtype.startswith(("float", "bfloat")):
        return None
    twin = tables.fused_twin(options)
    if twin is None:
        return None
    gain = ledger(spec, around).moved - ledger(with_optimizer(spec, twin), around).moved
    return gain if gain > 0 else None


def unfused(
    spec: TableSpec, around: Circumstances, machine: Machine, step: float, limits: Limits
) -> Iterator[Observation]:
    """EMB002: the same mathematics in fewer passes."""
    gain = _fused_gain(spec, around)
    if gain is None or spec.rows < limits.small_rows or spec.optimizer.options is None:
        return
    twin = tables.fused_twin(spec.optimizer.options)
    if twin is None:
        return
    before, after = ledger(spec, around), ledger(with_optimizer(spec, twin), around)
    saved = before.seconds(machine) - after.seconds(machine)
    if saved / step < limits.warning / 2 or 1e3 * saved < limits.warning_ms:
        return
    name = LABELS[twin.name]
    now, then = spec.optimizer.cost.passes, tables.optimizer_cost(twin).passes
    yield found(
        "EMB002",
        f"{spec.optimizer.label} passes {now} times over {spec.title}, its fused kernel {then} times: "
        f"{percent(1 - then / now)} fewer bytes, about {duration(saved)} per step",
        where=spec.where,
        evidence=Evidence(
            value=float(now),
            unit="passes per step",
            threshold=float(then),
            detail=f"operations of torch.optim.{name}; time on {machine.name}",
        ),
        means="every separate operation reads and writes the whole table again; one kernel does it in one sweep",
        fix=f"torch.optim.{name}(..., fused=True), also on a CPU (Keras: jit_compile=True fuses the update)",
    )


def sparse_support(spec: TableSpec, *, clip: bool) -> Iterator[Observation]:
    """EMB006 and EMB007 from the catalogue, when there is no model to try it on."""
    yield Judged("EMB006")
    yield Judged("EMB007")
    options = spec.optimizer.options
    if not spec.sparse or options is None:
        return
    name = {"momentum": "sgd", "nesterov": "sgd"}.get(options.name, options.name)
    label = LABELS[options.name]
    if name not in {"sgd", "adagrad", "sparse_adam"}:
        yield refused_sparse(spec, f"{label} does not support sparse gradients")
    elif spec.optimizer.weight_decay:
        yield refused_sparse(
            spec, f"{label} with weight_decay={spec.optimizer.weight_decay:g} refuses sparse gradients"
        )
    elif options.implementation == tables.FUSED:
        yield refused_sparse(spec, f"{label} with fused=True refuses sparse gradients")
    elif name == "sgd" and (options.momentum or options.nesterov):
        yield growing_momentum(spec, (spec.lookups, 2 * spec.lookups))
    if clip:
        yield refused_sparse(spec, "clip_grad_norm_ is not implemented for sparse gradients")


def refused_sparse(spec: TableSpec, words: str) -> Observation:
    """EMB006."""
    clipping = "clip" in words
    instead = LABELS[sparse_optimizer(spec.optimizer.family)]
    fix = (
        "leave the table out of the clipping, or clip its coalesced values by hand"
        if clipping
        else f"give the table its own torch.optim.{instead} without weight decay and keep the present optimizer "
        "for the rest, or set sparse=False"
    )
    return found(
        "EMB006",
        f"{spec.title} has sparse gradients, and {words}",
        where=spec.where,
        evidence=Evidence(detail=words),
        means="the first step raises",
        fix=fix,
    )


def growing_momentum(spec: TableSpec, entries: tuple[int, ...]) -> Observation:
    """EMB007."""
    row = spec.dim * spec.itemsize + 8
    return found(
        "EMB007",
        f"the sparse momentum buffer of {spec.title} grows by every step's {spec.lookups:,} rows and never shrinks",
        where=spec.where,
        evidence=Evidence(
            value=float(entries[-1]) / entries[0],
            unit="growth of the buffer",
            threshold=1.0,
            n={"steps": len(entries)},
            detail=f"entries after each step: {', '.join(map(str, entries))}; {size(spec.lookups * row)} per step here",
        ),
        means="steps slow down in proportion to their number, until the memory is full",
        fix="use SGD without momentum, SparseAdam or Adagrad for the table, or sparse=False",
    )


def tied_sparse(spec: TableSpec) -> Observation:
    """EMB008."""
    return found(
        "EMB008",
        f"{spec.title} is tied to {', '.join(map(repr, spec.tied[:3]))}: its gradient is dense although sparse=True",
        where=spec.where,
        evidence=Evidence(
            value=float(len(spec.tied)), unit="other uses", detail="the output layer's gradient is dense"
        ),
        means="sparse=True saves nothing here, and an optimizer for sparse gradients would refuse the dense one",
        fix="leave sparse out, or untie the output layer",
    )


def one_hot(name: str, classes: int, outputs: int, lookups: int, machine: Machine) -> Iterator[Observation]:
    """EMB010: a product with one-hot vectors."""
    flops = tables_layers.one_hot_flops(classes, outputs, lookups)
    seconds = flops / machine.flops
    if classes < 256 or seconds < 1e-3:
        return

    gathered = lookups * outputs * 4.0
    yield found(
        "EMB010",
        f"'{name}' multiplies {lookups:,} one-hot vectors of {classes:,} classes: {flops:.3g} operations "
        "per step for a "
        f"lookup of {size(gathered)}",
        where=Where(module=name.rpartition(".")[0] or name),
        evidence=Evidence(
            value=flops,
            unit="operations",
            threshold=1e-3 * machine.flops,
            n={"lookups": lookups, "classes": classes},
            detail=f"2NVD forward and 2NVD for the weight gradient; about {duration(seconds)} on {machine.name}; "
            f"the one-hot matrix alone holds {size(4.0 * lookups * classes)}",
        ),
        means="all but one product per row are with zero",
        fix="nn.Embedding(classes, width) on the ids gives the same result (a Linear's weight is its transpose, a "
        "matrix its own; add a bias separately)",
    )
