"""Is the aggregated gradient that of the whole batch, and how large may the batch be?"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nndiag.checks.multigpu_lr.equivalence import judge_equivalence
from nndiag.checks.multigpu_lr.layout import fitted, layout
from nndiag.checks.multigpu_lr.noise import judge_noise
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Evidence, Fact, Skip, Step
from nndiag.core.rules import found
from nndiag.lab.forward import batch_rows
from nndiag.lab.gradients import split_rows, still, whole_batch
from nndiag.lab.objective import loss_of, resolve_objective, sample_output, unreduced
from nndiag.lab.ranks import existing_world, group_of_one, take_own_gpu, torchrun_group
from nndiag.lab.shards import one_thread
from nndiag.lab.worldly import talks_to_ranks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.multigpu_lr.check import MultigpuLr
    from nndiag.checks.multigpu_lr.layout import Layout
    from nndiag.checks.multigpu_lr.plan import Plan
    from nndiag.core.findings import Observation
    from nndiag.core.subject import Batch, DataSource, Subject
    from nndiag.lab.objective import Objective

ONE_XX = ("MGL101", "MGL102", "MGL103")


@dataclass(frozen=True, slots=True)
class Setting:
    """What the measurements share."""

    subject: Subject
    plan: Plan
    layout: Layout
    whole: Batch
    objective: Objective
    world: int  # ranks that torchrun has started; 1 without it
    aware: bool  # the loss or the model asks for the process group

    def alone(self) -> Any:
        """Stand where a single device stands: in a group of one, if the loss asks for its group."""
        return group_of_one() if self.aware else contextlib.nullcontext()


def examine_model(check: MultigpuLr, subject: Subject, plan: Plan) -> Iterator[Observation]:
    """MGL101, MGL102, MGL103, and with --train MGL201 and MGL010."""
    run, codes = subject.run, (*ONE_XX, "MGL201", "MGL010")
    if subject.model is None or subject.data is None:
        for code in codes:
            yield Skip(code, "needs --data" if subject.model is not None else "needs --model")
        return
    world = existing_world()
    if not run.wants("MGL1", "MGL2", "MGL010"):
        return
    if world > 1:
        take_own_gpu(run.device)
    plan_of_rows = layout(plan, ranks=check.ranks, world=world)
    yield Step("reading the data")
    whole, laid, reason = _laid_out(subject.data, plan_of_rows, run.device)
    if whole is None or laid is None:
        for code in codes:
            yield Skip(code, reason)
        return
    if subject.data.synthetic:
        yield Fact("data", subject.data.name, f"data {subject.data.name}")
    model = still(subject.model.make())
    objective = resolve_objective(subject.training, model, whole)
    _require_one_number(objective, model, whole)
    setting = Setting(subject, plan, laid, whole, objective, world, _asks_for_ranks(subject, model, whole, objective))
    yield Fact("loss", setting.objective.name, f"loss {setting.objective.name} ({setting.objective.how})")
    if world > 1:
        from nndiag.checks.multigpu_lr.distributed import examine_together

        with torchrun_group(max(5.0, run.seconds_left), run.device):
            yield from examine_together(setting)
        for code in ("MGL201", "MGL010"):
            yield Skip(code, "micro-training emulates its devices: run it without torchrun")
        return
    with one_thread(model):
        yield from _one_process(setting)


def _laid_out(data: DataSource, wanted: Layout, device: str) -> tuple[Batch | None, Layout | None, str]:
    """Return the batch to share out and how, or why there is none."""
    first = next(iter(data.batches(wanted.rows)), None)
    if first is not None and first.whole:
        return None, None, "the model takes a batch of this data as a whole only: there are no shards"
    whole = whole_batch(data, wanted.rows, device)
    rows = batch_rows(whole) if whole is not None else 0
    laid = fitted(wanted, rows) if rows else None
    return whole, laid, f"{rows} rows of data are too few for {len(wanted.sizes)} shards"


def _one_process(setting: Setting) -> Iterator[Observation]:
    run = setting.subject.run
    if run.wants("MGL101", "MGL102"):
        yield from judge_equivalence(setting)
    noise: float | None = None
    if run.wants("MGL103") or run.wants("MGL201"):
        if run.seconds_left <= 0:
            yield from out_of_time("MGL103")
        else:
            for item in judge_noise(setting):
                noise = _value(item, noise)
                yield item
    if not run.train:
        for code in ("MGL201", "MGL010"):
            yield Skip(code, "needs --train")
        return
    from nndiag.checks.multigpu_lr.trained import judge_training

    if run.wants("MGL201", "MGL010"):
        yield from judge_training(setting, noise)


def _require_one_number(objective: Objective, model: Any, whole: Batch) -> None:
    """Refuse a loss that is left unreduced: sum or mean over samples is what is asked here, and his loop decides it."""
    if objective.how == "as asked":
        return
    batch = split_rows(whole, [min(2, batch_rows(whole))])[0]
    who, shape = "the model's loss", None
    try:
        output = sample_output(model, batch)
        shape = unreduced(output)
        if objective.how == "the user's function":
            who, value = f"the loss {objective.name}", objective.fn(output, batch.targets)
            shape = tuple(value.shape) if value.numel() != 1 else None
    except (NndiagError, RuntimeError, ValueError):
        return  # what fails here fails where it is used, and is told there
    if shape is not None:
        raise NndiagError(
            f"{who} has shape {shape} for {batch_rows(batch)} samples, not one number",
            hint="return its mean or its sum, whichever your loop takes the backward pass of",
        )


def _asks_for_ranks(subject: Subject, model: Any, whole: Batch, objective: Objective) -> bool:
    """Whether loss or model talk to other ranks, as their code says or as they complain without a group."""
    loss = subject.training.loss
    if talks_to_ranks(loss if callable(loss) else None, model):
        return True
    try:
        loss_of(model, split_rows(whole, [min(8, batch_rows(whole))])[0], objective)
    except (NndiagError, RuntimeError, ValueError) as failed:
        asks = "process group" in str(failed)
        if callable(loss) and not asks and isinstance(failed, NndiagError):
            raise  # the user's own loss fails: to skip what needs it would look like health
        return asks
    return False


def _value(item: Any, known: float | None) -> float | None:
    return float(item.value) if getattr(item, "name", "") == "noise_scale" else known


def out_of_time(*codes: str) -> Iterator[Observation]:
    """Say what the budget has cut off."""
    for code in codes:
        yield Skip(code, "the time budget was used up before")
    yield found(
        "NND902",
        f"the time budget ended before {', '.join(codes)}",
        evidence=Evidence(detail="experiments that were not finished are listed as skipped"),
        means="nothing is known about what was not measured",
        fix="raise --max-seconds",
    )
