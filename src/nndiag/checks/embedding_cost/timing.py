"""Read the clock: the present step, each cure, and the model around them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nndiag.checks.embedding_cost.cures import Cure, cures, order
from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from nndiag.checks.embedding_cost.model import ModelView
    from nndiag.checks.embedding_cost.spec import Circumstances, TableSpec
    from nndiag.core.subject import Subject
    from nndiag.lab.embedding.cures import Patient
    from nndiag.lab.embedding.look import Memory, Trial
    from nndiag.lab.embedding.model import ModelTiming
    from nndiag.lab.embedding.step import Forecast
    from nndiag.science.roofline import Machine

HOLD = 1.2e9  # bytes that a real step may hold here
TINY = 8 * 2**20  # a table shrunk for the sake of the model behind it


@dataclass(frozen=True, slots=True)
class TableTiming:
    """The clock's word on one table."""

    forecast: Forecast
    cures: list[Cure]

    @property
    def seconds(self) -> float:
        """The step of the table: measured at its size, or extrapolated."""
        measured = self.forecast.measured
        return measured.total.typical if measured else self.forecast.seconds

    @property
    def interval(self) -> tuple[float, float]:
        """Spread of the repetitions, or the prediction interval."""
        measured = self.forecast.measured
        return (measured.total.low, measured.total.high) if measured else self.forecast.interval


def copies(cure: Cure) -> float:
    """Table-sized tensors alive at once under a cure."""
    cost = cure.spec.optimizer.cost
    buckets = _buckets(cure) == "copied"
    return 1 + cost.state if cure.spec.sparse else 2 + cost.state + cost.temporaries + buckets


def time_tables(  # noqa: PLR0913 - budgets and rates, by name
    spec: TableSpec,
    around: Circumstances,
    machine: Machine,
    makers: Callable[[Cure], Any],
    *,
    kept_rows: int | None,
    device: str,
    seconds: float,
    clip: float | None,
    seed: int,
) -> TableTiming:
    """Time the present step of a table and its cures, extrapolating where the table is too large to try.

    Where several devices train, the gradients go through the buckets of DistributedDataParallel, in a process group
    of one: its copies are real, the network is not there.

    Args:
        spec: A trainable table.
        around: What else passes over it.
        machine: Measured rates, for the predictions.
        makers: Optimizer maker of a cure.
        kept_rows: Rows of a minimum count.
        device: Where.
        seconds: Time to spend.
        clip: Norm that is clipped to.
        seed: Of the ids.
    """
    from nndiag.lab.embedding import step as lab
    from nndiag.lab.embedding.look import TRY_BYTES, Memory

    listed = cures(spec, around, machine, kept_rows=kept_rows)
    share = seconds / (len(listed) + 1)
    memory = Memory()
    with parallel(around, device):
        trial = _trial(spec, listed[0], makers(listed[0]), memory, device=device, clip=clip, seed=seed)
        now = lab.forecast(trial, spec.rows, copies=copies(listed[0]), seconds=2 * share, full=True)
        done: list[Cure] = []
        for cure in listed:
            forecast = now
            if cure.key in {"hashed", "minimum-count"}:  # fewer rows of the same step
                done.append(_fewer_rows(cure, now, copies(cure), share))
                continue
            if cure.key != "current":
                other = _trial(cure.spec, cure, makers(cure), memory, device=device, clip=clip, seed=seed)
                if cure.key == "factorised" and not spec.sparse and cure.spec.bytes > TRY_BYTES:
                    done.append(_fewer_columns(cure, now, other, share))
                    continue
                forecast = lab.forecast(other, cure.spec.rows, copies=copies(cure), seconds=share, full=True, ends=True)
            measured = forecast.measured
            value = measured.total.typical if measured else forecast.seconds
            bounds = (measured.total.low, measured.total.high) if measured else forecast.interval
            done.append(replace(cure, clock=value, measured=measured is not None, interval=bounds))
    memory.release()
    return TableTiming(now, order(done))


def parallel(around: Circumstances, device: str) -> contextlib.AbstractContextManager[None]:
    """Return a process group of one where the user trains on several devices."""
    if around.gpus < 2:
        return contextlib.nullcontext()
    from nndiag.lab.ranks import backend_for, group_of_one

    return group_of_one(backend_for(device, 1))


def _buckets(cure: Cure) -> str:
    """How dense gradients reach the other devices; sparse ones go around the buckets."""
    if cure.around.gpus < 2 or cure.spec.sparse:
        return ""
    return "view" if cure.around.bucket_view else "copied"


def _fewer_rows(cure: Cure, now: Forecast, held: float, seconds: float) -> Cure:
    """Time the same step at fewer rows where that is quick, else read it off the line."""
    from nndiag.lab.embedding import step as lab

    rows, expected = cure.spec.rows, now.at(cure.spec.rows)
    if cure.spec.bytes * held <= lab.HOLD_BYTES and 4 * expected < seconds:
        took = lab.time_table(now.trial, rows, seconds=seconds / 3).total
        return replace(cure, clock=took.typical, measured=True, interval=(took.low, took.high))
    return replace(cure, clock=expected, interval=now.interval_at(rows))


def _fewer_columns(cure: Cure, now: Forecast, trial: Trial, seconds: float) -> Cure:
    """Time the narrow table once; each further byte of it costs what it costs in the present step."""
    from nndiag.lab.embedding import step as lab

    tried = int(lab.FRESH_BYTES / cure.spec.bytes * cure.spec.rows)
    share = cure.spec.dim / now.trial.dim
    rows = share * cure.spec.rows
    took = lab.time_table(trial, tried, seconds=seconds).total.typical + now.at(rows) - now.at(share * tried)
    low, high = (bound + took - now.at(rows) for bound in now.interval_at(rows))
    return replace(cure, clock=took, interval=(max(low, 0.0), high))


def _trial(  # noqa: PLR0913 - likewise
    spec: TableSpec, cure: Cure, make: Any, memory: Memory, *, device: str, clip: float | None, seed: int
) -> Trial:
    import torch

    from nndiag.lab.embedding.ids import ZipfIds
    from nndiag.lab.embedding.look import Trial

    dtype = getattr(torch, spec.dtype, torch.float32)
    return Trial(
        dim=cure.spec.dim,
        make=make,
        ids=ZipfIds(spec.lookups, seed=seed),
        sparse=cure.spec.sparse,
        pooled=cure.spec.pooled if spec.lookups % max(cure.spec.pooled, 1) == 0 else 0,
        bag=cure.spec.bagged,
        project=cure.project,
        frozen=cure.frozen,
        clip=None if cure.spec.sparse else clip,
        accumulation=cure.around.accumulation,
        set_to_none=cure.around.set_to_none,
        buckets=_buckets(cure),
        dtype=dtype,
        device=device,
        memory=memory,
    )


@dataclass(frozen=True, slots=True)
class WholeStep:
    """The user's step on this machine."""

    seconds: float  # with every table at its size
    interval: tuple[float, float]
    timing: ModelTiming  # as run
    shrunk: bool
    parts: tuple[float, float, float]  # forward, backward, optimizer, as run


def time_whole(  # noqa: PLR0913 - budgets, by name
    subject: Subject,
    view: ModelView,
    tables_seconds: dict[str, float],
    around: Circumstances,
    *,
    clip: float | None,
    seconds: float,
) -> WholeStep:
    """Time the user's whole step, with shrunk tables where the true ones do not fit.

    Args:
        subject: With the model and the training.
        view: What is known about it.
        tables_seconds: Seconds of each table's own step at its size.
        around: Micro-batches and zero_grad.
        clip: Norm that is clipped to.
        seconds: Time to spend.

    Raises:
        NndiagError: The model cannot be trained here on this batch.
    """
    rows = shrunk_rows(view)
    with parallel(around, subject.run.device):
        patient = patient_of(subject, view, around, rows, clip=clip)
        timing = _timed(patient, around, seconds)
        del patient
    total, low, high = timing.total.typical, timing.total.low, timing.total.high
    if rows:
        grown = sum(
            tables_seconds.get(spec.name, 0.0) * (1 - rows[spec.rows] / spec.rows)
            for spec in view.specs
            if spec.rows in rows
        )
        total, low, high = total + grown, low + grown, high + grown
    return WholeStep(total, (low, high), timing, bool(rows), (timing.forward, timing.backward, timing.optimizer))


def patient_of(
    subject: Subject, view: ModelView, around: Circumstances, rows: dict[int, int], *, clip: float | None
) -> Patient:
    """Build a private model with its batch and its optimizers on the device.

    Raises:
        NndiagError: No inputs are known that the model takes.
    """
    from nndiag.lab.embedding.cures import Patient
    from nndiag.lab.embedding.model import Loop, build
    from nndiag.lab.embedding.optim import route
    from nndiag.lab.embedding.uses import folded
    from nndiag.lab.forward import move

    if view.watch is None or view.batch is None:
        raise NndiagError(f"no inputs are known that the model takes: {view.trouble}", hint="give DATA")
    assert subject.model is not None
    model = build(subject.model, rows, subject.run.seed, view.bare).to(subject.run.device)
    sizes = {site.parameter: rows.get(site.rows, site.rows) for site in view.sites}
    batch = Batch(
        move(folded(view.batch.inputs, view.watch, sizes), subject.run.device),
        move(_targets(view.batch.targets, rows), subject.run.device),
    )
    loop = Loop(around.accumulation, around.set_to_none)
    optimizers = route(subject.training, model).optimizers
    return Patient(model, batch, subject.training, optimizers, clip, loop)


def _timed(patient: Patient, around: Circumstances, seconds: float) -> ModelTiming:
    from nndiag.lab.embedding.model import time_model

    def timed(model: nn.Module) -> ModelTiming:
        return time_model(
            model, patient.batch, patient.training, patient.optimizers,
            clip=patient.clip, loop=patient.loop, seconds=seconds,
        )  # fmt: skip

    if around.gpus < 2:
        return timed(patient.model)
    from nndiag.lab.embedding.look import in_buckets

    try:
        return timed(in_buckets(patient.model, view=around.bucket_view))
    except NndiagError:  # parameters that a step leaves out must be looked for
        return timed(in_buckets(patient.model, view=around.bucket_view, unused=True))


def shrunk_rows(view: ModelView) -> dict[int, int]:
    """Choose fewer rows for large tables when the model does not fit; empty when it does."""
    states = max((spec.optimizer.cost.state + spec.optimizer.cost.temporaries for spec in view.specs), default=2)
    everything = view.inventory.parameters * view.inventory.itemsize
    trained = view.inventory.trainable_bytes
    if everything + trained * (1 + states) <= HOLD:
        return {}
    rows = {}
    for spec in view.specs:
        if spec.bytes > TINY:
            rows[spec.rows] = max(int(TINY / (spec.dim * spec.itemsize)), 1024)
    return rows


def held_bytes(view: ModelView) -> float:
    """Bytes that the step would hold with its tables shrunk."""
    rows = shrunk_rows(view)
    saved = sum((spec.rows - rows[spec.rows]) * spec.dim * spec.itemsize for spec in view.specs if spec.rows in rows)
    states = max((spec.optimizer.cost.state + spec.optimizer.cost.temporaries for spec in view.specs), default=2)
    return max(view.inventory.trainable_bytes - saved, 0) * (2 + states)


def _targets(targets: Any, rows: dict[int, int]) -> Any:
    """Fold class ids of a shrunk softmax head."""
    import torch

    if rows and isinstance(targets, torch.Tensor) and not targets.is_floating_point() and targets.numel():
        least = min(rows.values())
        if int(targets.max()) >= least:
            return torch.where(targets >= 0, targets.remainder(least), targets)
    return targets
