"""The gradient that W ranks × A accumulation steps give the optimizer, beside the global batch's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - imported only where a model is

from nndiag.checks.multigpu_lr.layout import DIVIDES_BY_ACCUMULATION
from nndiag.core.errors import NndiagError
from nndiag.lab import gradients, ranks
from nndiag.lab.forward import batch_rows, move
from nndiag.lab.objective import loss_of
from nndiag.lab.shards import RankGradient, leaves_parameters_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from nndiag.checks.multigpu_lr.measured import Setting
    from nndiag.core.subject import Batch

LARGE = 2_000_000  # parameters from which float64 is kept for what looks amiss
RANK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """The gradient as the optimizer would get it, beside the right one."""

    whole: Tensor  # (P,)
    parts: Tensor  # (S, P)
    sums: gradients.Sums
    aggregated: Tensor  # (P,) what the declared reduction makes of the parts, or what real ranks gave
    counts: dict[str, list[float]]
    precise: bool
    real: bool
    world_aware: bool
    noise: float  # relative distance between the losses, or the gradients, of two equal calls

    @property
    def tolerance(self) -> float:
        """Relative distance that finite precision explains."""
        return gradients.ROUNDING[torch.float64 if self.precise else torch.float32]


def compare(setting: Setting) -> Comparison:
    """Measure the whole batch's gradient and the shards', and aggregate as the recipe does.

    A large model is measured in its own precision first, and in float64 only where that shows anything amiss: the
    oracle costs twice as much, and is for telling rounding from faults.
    """
    model: Any = setting.subject.model
    made = gradients.still(model.make())
    real = setting.layout.ranks > 1 and (setting.layout.real or setting.aware)
    if not real and sum(item.numel() for item in made.parameters()) > LARGE:
        seen = _compared(setting, made, exact=False)
        if seen.sums.uniform and gradients.relative(seen.aggregated, seen.whole)[0] <= 10 * seen.tolerance:
            return seen
    made, exact = in_float64(setting)
    return _compared(setting, made, exact=exact)


def _compared(setting: Setting, model: Any, *, exact: bool) -> Comparison:
    whole_batch = gradients.split_rows(setting.whole, [setting.layout.rows])[0]
    shards = gradients.split_rows(setting.whole, setting.layout.sizes)
    aware = setting.aware
    seed, room = setting.subject.run.seed, gradients.room_for(len(shards) + 1)
    held = torch.float64 if exact else torch.float32
    with setting.alone():
        whole = gradients.gradient_of(model, whole_batch, setting.objective, seed=seed, sketch=room, dtype=held)
        noise = gradients.unrest(model, _few(whole_batch), setting.objective, seed=seed)
        each = gradients.shard_gradients(model, shards, setting.objective, seed=seed, sketch=room, dtype=held)
        parts = whole.new_empty(len(shards), len(whole))
        for row, own in zip(parts, each, strict=True):
            row.copy_(own)
    counts = {
        "shard": [float(batch_rows(shard)) for shard in shards],
        "token": [float(gradients.token_counts(shard)) for shard in shards],
    }
    sums = gradients.explain_sum(parts, whole, list(counts.values()), gradients.ROUNDING[held])
    aggregated = emulated(setting, parts, sums, counts)
    real = setting.layout.ranks > 1 and (setting.layout.real or aware)
    if real:
        aggregated = _on_ranks(setting, model, shards, sums)
    return Comparison(whole, parts, sums, aggregated, counts, exact, real, aware, noise)


def _few(batch: Batch) -> Batch:
    """A small share suffices to see whether equal calls give equal gradients."""
    return gradients.split_rows(batch, [max(1, min(4, batch_rows(batch)))])[0]


def reductions(setting: Setting, sums: gradients.Sums) -> tuple[str, str]:
    """Return how gradients are joined over ranks and over micro-batches: as declared, else as the framework does.

    DDP, FSDP, DeepSpeed and Horovod average over ranks. MirroredStrategy sums, and a loss function of one's own must
    divide by the global batch; Keras does so for its named losses. Accelerate, DeepSpeed, Lightning and the Trainer
    divide by the accumulation steps; a script that sums its loss has no reason to.
    """
    recipe = setting.plan.recipe
    over_ranks = recipe.gradient_reduction or (
        "sum" if recipe.framework == "mirrored" and callable(setting.subject.training.loss) else "mean"
    )
    over_micro = recipe.accumulation_reduction
    if over_micro is None:
        sums_up = sums.uniform and sums.weights is not None and abs(float(sums.weights[0]) - 1) < 1e-3
        by_framework = recipe.framework in DIVIDES_BY_ACCUMULATION
        over_micro = "sum" if sums_up and not by_framework else "mean"
    return over_ranks, over_micro


def emulated(setting: Setting, parts: Tensor, sums: gradients.Sums, counts: dict[str, list[float]]) -> Tensor:
    """Join the shards' gradients in one process, as the recipe's framework joins them over ranks."""
    over_ranks, over_micro = reductions(setting, sums)
    laid = setting.layout
    scale = (1.0 if over_ranks == "sum" else 1 / laid.ranks) * (1.0 if over_micro == "sum" else 1 / laid.micro)
    if setting.plan.recipe.framework == "hf" and setting.objective.name == "own":
        tokens = torch.tensor(counts["token"], dtype=torch.float64)  # the Trainer divides by num_items_in_batch itself
        return (tokens / tokens.sum()).to(parts.dtype) @ parts
    return scale * parts.sum(0)


def _on_ranks(setting: Setting, model: Any, shards: Sequence[Batch], sums: gradients.Sums) -> Tensor:
    """Run the same step on a real process group, DDP included."""
    laid, run = setting.layout, setting.subject.run
    over_ranks, over_micro = reductions(setting, sums)
    backend = ranks.backend_for(run.device, laid.ranks)
    here = [move(shard, "cpu") for shard in shards]
    grouped = [here[rank * laid.micro : (rank + 1) * laid.micro] for rank in range(laid.ranks)]
    loss = setting.subject.training.loss
    with setting.alone():
        unused = leaves_parameters_out(model, shards[0], setting.objective)
    job = RankGradient(
        model.cpu(),
        setting.subject.training,
        move(setting.whole, "cpu"),
        grouped,
        average_ranks=over_ranks == "mean",
        average_micro=over_micro == "mean",
        unused=unused,
        sketch=gradients.room_for(len(shards) + 1),
        seed=run.seed,
        device="cuda" if backend == "nccl" else None,
    )
    seconds = max(5.0, min(RANK_SECONDS, run.seconds_left))
    users = [model, *([loss] if callable(loss) else [])]
    results = ranks.run_ranks(job, laid.ranks, seconds=seconds, users=users, backend=backend)
    found_gradient: Tensor = results[0]["gradient"]
    return found_gradient


def in_float64(setting: Setting) -> tuple[Any, bool]:
    """Return a still private model in float64, or in its own precision where that is not possible."""
    model: Any = setting.subject.model
    made = gradients.still(model.make())
    if setting.subject.run.device.startswith("mps"):
        return made, False
    try:
        with gradients.precise(made) as exact, setting.alone():
            loss_of(exact, gradients.split_rows(setting.whole, [min(2, setting.layout.rows)])[0], setting.objective)
    except (NndiagError, RuntimeError, TypeError, ValueError):
        return gradients.still(model.make()), False
    return exact, True


def factor_of(seen: Comparison) -> float | None:
    """Return c where the aggregated gradient is c times the right one; None where it points elsewhere."""
    size = float(seen.whole @ seen.whole)
    if not size:
        return None
    scale = float(seen.aggregated @ seen.whole) / size
    rest = float((seen.aggregated - scale * seen.whole).norm()) / max(float(seen.aggregated.norm()), 1e-300)
    return scale if rest <= max(10 * seen.tolerance, 1e-6) else None
