"""Read the clock: the present step, each cure, and the model around them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nndiag.checks.embedding_cost.cures import Cure, cures, order
from nndiag.core.errors import NndiagError
from nndiag.core.subject import Batch
from nndiag.science import tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.checks.embedding_cost.model import ModelView
    from nndiag.checks.embedding_cost.spec import Circumstances, TableSpec
    from nndiag.core.subject import Subject
    from nndiag.lab.embedding_model import ModelTiming
    from nndiag.lab.embedding_step import Forecast
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
    return 1 + cost.state if cure.spec.sparse else 2 + cost.state + cost.temporaries


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
    from nndiag.lab import embedding_step as lab

    listed = cures(spec, around, machine, kept_rows=kept_rows)
    share = seconds / (len(listed) + 1)
    trial = _trial(spec, listed[0], makers(listed[0]), device=device, clip=clip, seed=seed)
    now = lab.forecast(trial, spec.rows, copies=copies(listed[0]), seconds=2 * share, full=True)
    done: list[Cure] = []
    for cure in listed:
        forecast = now
        if cure.key in {"hashed", "minimum-count", "frozen"}:  # fewer rows of the same step: on the same line
            done.append(replace(cure, clock=now.at(cure.spec.rows), interval=now.interval_at(cure.spec.rows)))
            continue
        if cure.key == "bucket-view":
            done.append(cure)
            continue
        if cure.key != "current":
            other = _trial(cure.spec, cure, makers(cure), device=device, clip=clip, seed=seed)
            forecast = lab.forecast(other, cure.spec.rows, copies=copies(cure), seconds=share, full=True)
        measured = forecast.measured
        value = measured.total.typical if measured else forecast.seconds
        bounds = (measured.total.low, measured.total.high) if measured else forecast.interval
        done.append(replace(cure, clock=value, measured=measured is not None, interval=bounds))
    return TableTiming(now, order(done))


def _trial(  # noqa: PLR0913 - likewise
    spec: TableSpec, cure: Cure, make: Any, *, device: str, clip: float | None, seed: int
) -> Any:
    import torch

    from nndiag.lab.embedding_step import Trial, ZipfIds

    dtype = getattr(torch, spec.dtype, torch.float32)
    return Trial(
        dim=spec.dim,
        make=make,
        ids=ZipfIds(spec.lookups, seed=seed),
        sparse=cure.spec.sparse,
        clip=None if cure.spec.sparse else clip,
        dtype=dtype,
        device=device,
    )


def makers_from_name(spec: TableSpec) -> Callable[[Cure], Any]:
    """Return the maker of each cure's optimizer when the present one is of the catalogue."""
    from nndiag.core.subject import Training
    from nndiag.lab.embedding_cures import RowWiseAdagrad, sparse_twin
    from nndiag.lab.optimizers import make_optimizer

    def make(cure: Cure) -> Any:
        optimizer = cure.spec.optimizer
        if cure.key == "row-wise":
            return lambda params: RowWiseAdagrad(params, lr=1e-3)
        if cure.key == "sparse" or (optimizer.options is not None and optimizer.options.name == "sparse_adam"):
            return sparse_twin(optimizer.family, 1e-3)
        options = optimizer.options
        if options is None:
            raise NndiagError("the optimizer is unknown", hint="give the model, or --optimizer by name")
        name = {"momentum": "sgd", "nesterov": "sgd"}.get(options.name, options.name)
        return lambda params: make_optimizer(Training(optimizer=name, lr=1e-3, optimizer_args=_args(options)), params)

    del spec
    return make


def _args(options: tables.OptimizerOptions) -> dict[str, Any]:
    """Torch's arguments for these options, as far as its optimizer takes them."""
    name = options.name
    args: dict[str, Any] = {}
    if name in {"sgd", "momentum", "nesterov", "rmsprop"} and options.momentum:
        args["momentum"] = options.momentum
    if options.nesterov:
        args["nesterov"] = True
    if options.amsgrad:
        args["amsgrad"] = True
    if options.centered:
        args["centered"] = True
    if name != "sparse_adam":
        args["weight_decay"] = options.weight_decay
    if options.implementation == tables.FUSED:
        args["fused"] = True
    elif name != "sparse_adam":
        args["foreach"] = options.implementation == tables.FOREACH
    return args


def makers_from_model(view: ModelView, index: int) -> Callable[[Cure], Any]:
    """Return the maker of each cure's optimizer when the user's own optimizer is at hand."""
    from nndiag.lab.embedding_optim import maker

    site = view.sites[index]
    found = view.routing.of(site.key) if view.routing else None
    by_name = makers_from_name(view.specs[index])

    def make(cure: Cure) -> Any:
        own = found is not None and (cure.spec.optimizer.options is None or cure.key in {"current", "factorised"})
        if own and found is not None:
            return maker(*found)
        return by_name(cure)

    return make


@dataclass(frozen=True, slots=True)
class WholeStep:
    """The user's step on this machine."""

    seconds: float  # with every table at its size
    interval: tuple[float, float]
    timing: ModelTiming  # as run
    shrunk: bool
    parts: tuple[float, float, float]  # forward, backward, optimizer, as run


def time_whole(
    subject: Subject, view: ModelView, tables_seconds: dict[str, float], *, clip: float | None, seconds: float
) -> WholeStep:
    """Time the user's whole step, with shrunk tables where the true ones do not fit.

    Args:
        subject: With the model and the training.
        view: What is known about it.
        tables_seconds: Seconds of each table's own step at its size.
        clip: Norm that is clipped to.
        seconds: Time to spend.

    Raises:
        NndiagError: The model cannot be trained here on this batch.
    """
    from nndiag.lab.embedding_model import build, time_model
    from nndiag.lab.embedding_optim import route
    from nndiag.lab.embedding_uses import folded
    from nndiag.lab.forward import move

    if view.watch is None or view.batch is None:
        raise NndiagError(f"no inputs are known that the model takes: {view.trouble}", hint="give DATA")
    rows = shrunk_rows(view)
    assert subject.model is not None
    model = build(subject.model, rows, subject.run.seed, view.bare).to(subject.run.device)
    sizes = {site.parameter: rows.get(site.rows, site.rows) for site in view.sites}
    inputs = move(folded(view.batch.inputs, view.watch, sizes), subject.run.device)
    routing = route(subject.training, model)
    batch = Batch(inputs, _targets(view.batch.targets, rows))
    timing = time_model(model, batch, subject.training, routing.optimizers, clip=clip, seconds=seconds)
    del model, routing
    total, low, high = timing.total.typical, timing.total.low, timing.total.high
    if rows:
        grown = sum(
            tables_seconds.get(spec.name, 0.0) * (1 - rows[spec.rows] / spec.rows)
            for spec in view.specs
            if spec.rows in rows
        )
        total, low, high = total + grown, low + grown, high + grown
    return WholeStep(total, (low, high), timing, bool(rows), (timing.forward, timing.backward, timing.optimizer))


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


def execute_on_model(subject: Subject, view: ModelView, key: str, *, clip: float | None) -> str:
    """Run a cure on the user's model and return what stopped it."""
    from nndiag.lab.embedding_cures import run_sparse, run_steps, sparse_twin
    from nndiag.lab.embedding_model import build
    from nndiag.lab.embedding_optim import route
    from nndiag.lab.embedding_uses import folded
    from nndiag.lab.forward import move

    if view.watch is None or view.batch is None or subject.model is None:
        return ""
    rows = shrunk_rows(view) or {spec.rows: 4096 for spec in view.specs if spec.rows > 65_536}
    try:
        model = build(subject.model, rows, subject.run.seed, view.bare).to(subject.run.device)
        sizes = {site.parameter: rows.get(site.rows, site.rows) for site in view.sites}
        inputs = move(folded(view.batch.inputs, view.watch, sizes), subject.run.device)
        batch = Batch(inputs, _targets(view.batch.targets, rows))
        if key == "sparse":
            family = next((spec.optimizer.family for spec in view.specs if spec.trainable), "adam")
            return run_sparse(model, batch, subject.training, sparse_twin(family, 1e-3), clip=clip)
        training = replace(subject.training, optimizer_args={**subject.training.optimizer_args, key: True})
        return run_steps(model, [batch, batch], training, route(training, model).optimizers, clip=clip)
    except Exception as error:  # noqa: BLE001 - a cure that does not run is not advised
        return str(error).splitlines()[0] if str(error) else type(error).__name__
