"""Is the gradient of W ranks × A accumulation steps the gradient of the global batch? If not, by what factor?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - imported only where a model is

from nndiag.checks.multigpu_lr.layout import DIVIDES_BY_ACCUMULATION
from nndiag.checks.multigpu_lr.plan import show, times
from nndiag.checks.multigpu_lr.rate import allowed_range
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Evidence, Judged, Measurement, Skip, Step, Table, Where
from nndiag.core.rules import found
from nndiag.lab import gradients, ranks
from nndiag.lab.forward import batch_rows
from nndiag.lab.shards import RankGradient, leaves_parameters_out
from nndiag.science.scaling import name_of_factor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from nndiag.checks.multigpu_lr.measured import Setting
    from nndiag.core.findings import Observation
    from nndiag.core.subject import Batch

LARGE = 2_000_000  # parameters from which float64 is kept for what looks amiss
MOST_ERROR = 0.05  # of the whole batch's gradient: less is lost in its own noise
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
    noise: float  # relative distance between the losses of two equal calls

    @property
    def tolerance(self) -> float:
        """Relative distance that finite precision explains."""
        return gradients.ROUNDING[torch.float64 if self.precise else torch.float32]


def judge_equivalence(setting: Setting) -> Iterator[Observation]:
    """MGL101 and MGL102."""
    yield Step("gradients of shards", 0.2)
    try:
        seen = compare(setting)
    except NndiagError as failed:
        if setting.layout.real or failed.exit_code != NndiagError.exit_code:
            raise
        for code in ("MGL101", "MGL102"):
            yield Skip(code, f"no gradient: {failed.message}")
        return
    yield from tell(setting, seen)
    yield from _with_batchnorm(setting, seen)


def compare(setting: Setting) -> Comparison:
    """Measure the whole batch's gradient and the shards', and aggregate as the recipe does.

    A large model is measured in its own precision first, and in float64 only where that shows anything amiss: the
    oracle costs twice as much, and is for telling rounding from faults.
    """
    from nndiag.checks.multigpu_lr.measured import in_float64

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
    with setting.alone():
        whole = gradients.gradient_of(model, whole_batch, setting.objective, seed=seed, sketch=room)
        noise = gradients.unrest(model, _few(whole_batch), setting.objective, seed=seed)
        parts = torch.stack(list(gradients.shard_gradients(model, shards, setting.objective, seed=seed, sketch=room)))
    counts = {
        "shard": [float(batch_rows(shard)) for shard in shards],
        "token": [float(gradients.token_counts(shard)) for shard in shards],
    }
    tolerance = gradients.ROUNDING[torch.float64 if exact else torch.float32]
    sums = gradients.explain_sum(parts, whole, list(counts.values()), tolerance)
    aggregated = _emulated(setting, parts, sums, counts)
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
        sums_up = sums.uniform and sums.weights is not None and abs(float(sums.weights[0]) - 1) < 1e-6
        by_framework = recipe.framework in DIVIDES_BY_ACCUMULATION
        over_micro = "sum" if sums_up and not by_framework else "mean"
    return over_ranks, over_micro


def _emulated(setting: Setting, parts: Tensor, sums: gradients.Sums, counts: dict[str, list[float]]) -> Tensor:
    over_ranks, over_micro = reductions(setting, sums)
    laid = setting.layout
    scale = (1.0 if over_ranks == "sum" else 1 / laid.ranks) * (1.0 if over_micro == "sum" else 1 / laid.micro)
    if setting.plan.recipe.framework == "hf" and setting.objective.name == "own":
        tokens = torch.tensor(counts["token"], dtype=torch.float64)  # the Trainer divides by num_items_in_batch itself
        return (tokens / tokens.sum()) @ parts
    return scale * parts.sum(0)


def _on_ranks(setting: Setting, model: Any, shards: Sequence[Batch], sums: gradients.Sums) -> Tensor:
    """Run the same step on a real process group, DDP included."""
    laid, run = setting.layout, setting.subject.run
    over_ranks, over_micro = reductions(setting, sums)
    grouped = [list(shards[rank * laid.micro : (rank + 1) * laid.micro]) for rank in range(laid.ranks)]
    loss = setting.subject.training.loss
    with setting.alone():
        unused = leaves_parameters_out(model, shards[0], setting.objective)
    job = RankGradient(
        model.cpu(),
        setting.subject.training,
        setting.whole,
        grouped,
        average_ranks=over_ranks == "mean",
        average_micro=over_micro == "mean",
        unused=unused,
        sketch=gradients.room_for(len(shards) + 1),
        seed=run.seed,
    )
    seconds = max(5.0, min(RANK_SECONDS, run.seconds_left))
    users = [model, *([loss] if callable(loss) else [])]
    found_gradient: Tensor = ranks.run_ranks(job, laid.ranks, seconds=seconds, users=users)[0]["gradient"]
    return found_gradient


def tell(setting: Setting, seen: Comparison) -> Iterator[Observation]:  # noqa: C901 - one branch per outcome
    """Turn a comparison into a table, measurements and MGL101 or MGL102."""
    error, cosine = gradients.relative(seen.aggregated, seen.whole)
    yield Measurement("gradient_relative_error", error, "ratio")
    yield Measurement("gradient_cosine", cosine, "cosine")
    yield from _side_by_side(setting, seen)
    if float(seen.whole.norm()) == 0:
        for code in ("MGL101", "MGL102"):
            yield Skip(code, "the gradient of the whole batch is zero")
        return
    if seen.noise > seen.tolerance:
        for code in ("MGL101", "MGL102"):
            yield Skip(code, f"equal calls in eval mode give losses {seen.noise:.2g} apart: nothing can be compared")
        return
    if seen.real:
        emulated = _emulated(setting, seen.parts, seen.sums, seen.counts)
        if not seen.world_aware:
            yield Measurement("real_against_emulated", gradients.relative(seen.aggregated, emulated)[0], "ratio")
    factor = factor_of(seen)
    if seen.sums.weights is None and not (seen.world_aware and error <= MOST_ERROR):
        yield Skip("MGL101", "the loss of a batch is no sum over its shards: see MGL102")
        yield Judged("MGL102")
        if error > seen.tolerance:
            yield _batch_dependent(setting, seen, error, cosine)
        return
    yield Judged("MGL101")
    yield Judged("MGL102")
    if factor is not None:
        yield Measurement("gradient_factor", factor, "ratio")
    if error <= MOST_ERROR or compensated(setting, factor):
        return
    yield _factor_finding(setting, seen, factor, (error, cosine))


def factor_of(seen: Comparison) -> float | None:
    """Return c where the aggregated gradient is c times the right one; None where it points elsewhere."""
    size = float(seen.whole @ seen.whole)
    if not size:
        return None
    scale = float(seen.aggregated @ seen.whole) / size
    rest = float((seen.aggregated - scale * seen.whole).norm()) / max(float(seen.aggregated.norm()), 1e-300)
    return scale if rest <= max(10 * seen.tolerance, 1e-6) else None


def compensated(setting: Setting, factor: float | None) -> bool:
    """Whether the declared rate makes up for the factor: summed gradients with an unscaled rate are linear scaling."""
    plan = setting.plan
    if factor is None or factor <= 0:
        return False
    k, ratio = plan.k, plan.rate_ratio
    if k is None or ratio is None or plan.adaptive:
        return setting.plan.recipe.gradient_reduction == "sum" and ratio is None
    low, high = allowed_range(plan, k)
    return low / 1.25 <= ratio * factor <= high * 1.25


def _side_by_side(setting: Setting, seen: Comparison) -> Iterator[Observation]:
    laid = setting.layout
    rows = []
    how = {"mean": 1 / (laid.ranks * laid.micro), "sum over ranks": 1 / laid.micro, "sum over all": 1.0}
    if laid.micro == 1:
        how.pop("sum over all")
    for name, scale in how.items():
        error, cosine = gradients.relative(scale * seen.parts.sum(0), seen.whole)
        size = float((scale * seen.parts.sum(0)).norm()) / max(float(seen.whole.norm()), 1e-300)
        rows.append((f"{name} of {laid.words}", f"{error:.2g}", f"{cosine:.6f}", f"{size:.4g}×"))
    if seen.real:
        error, cosine = gradients.relative(seen.aggregated, seen.whole)
        size = float(seen.aggregated.norm()) / max(float(seen.whole.norm()), 1e-300)
        rows.append((f"process group of {laid.ranks}", f"{error:.2g}", f"{cosine:.6f}", f"{size:.4g}×"))
    yield Table("Aggregated gradient against the whole batch's", ("aggregation", "error", "cosine", "size"), rows)


def _factor_finding(setting: Setting, seen: Comparison, factor: float | None, size: tuple[float, float]) -> Observation:
    laid, (error, cosine) = setting.layout, size
    W, A = float(laid.ranks), float(laid.micro)
    how = "a process group" if seen.real else "emulated ranks"
    evidence = Evidence(
        value=error,
        threshold=MOST_ERROR,
        unit="relative error",
        n={"samples": laid.rows, "ranks": laid.ranks, "micro_batches": laid.micro},
        seed=setting.subject.run.seed,
        detail=f"{laid.words}, {how}, {'float64' if seen.precise else 'own precision'}, cosine {cosine:.4f}",
    )
    where = _loss_place(setting)
    if factor is not None:
        names = {"W": W, "1/W": 1 / W, "A": A, "1/A": 1 / A, "W·A": W * A, "1/(W·A)": 1 / (W * A),
                 "W²": W * W, "A/W": A / W, "W/A": W / A}  # fmt: skip
        named = name_of_factor(factor, names, 0.01) if factor > 0 else None
        name = f" = {named[0]}" if named else ""
        return found(
            "MGL101",
            f"{laid.words} give {show(factor)}× the gradient of the global batch{name}",
            where=where,
            evidence=evidence,
            means=_meaning(setting, factor),
            fix="let each rank's loss be the mean over its samples and let DDP average; a summed loss: divide by the "
            "global count, all_reduce(count), and multiply by the world size under DDP; divide by the accumulation "
            "steps once",
        )
    kind, words = _imbalance(seen)
    return found(
        "MGL101",
        f"{kind}: {laid.words} give a gradient {show(error)} off (relative), cosine {cosine:.2f}{words}",
        where=where,
        evidence=evidence,
        means="a mean of means gives a sample in a small or short shard more weight than one in a large shard",
        fix="sum the loss, all-reduce sum and count over ranks and micro-batches, divide once (with DDP: local sum × "
        "world size / total count); transformers ≥ 4.46 does so with num_items_in_batch",
    )


def _meaning(setting: Setting, factor: float) -> str:
    k, ratio = setting.plan.k, setting.plan.rate_ratio
    adam = setting.plan.adaptive
    if adam:
        return "Adam divides by its own size, but clipping, eps and weight decay now see another gradient"
    if k and ratio:
        both = f"the rate is {times(ratio)} and the gradient {times(factor)}"
        return f"{both}: together {times(ratio * factor)} at a batch of {times(k)}"
    return f"the learning rate acts as if it were {times(factor)}; weight decay and clipping are off with it"


def _imbalance(seen: Comparison) -> tuple[str, str]:
    weights = seen.sums.weights
    assert weights is not None
    shape = weights / weights.sum()
    for name, words in (("token", "targets"), ("shard", "samples")):
        counts = torch.tensor(seen.counts[name], dtype=torch.float64)
        if len(set(seen.counts[name])) > 1 and float((counts / counts.sum() - shape).abs().max()) < 1e-6:
            same = seen.counts["token"] == seen.counts["shard"]
            kind = "shard" if same else name
            low, high = int(min(seen.counts[name])), int(max(seen.counts[name]))
            return f"{kind} imbalance", f"; shards hold {low} to {high} {words}"
    spread = float(shape.max() / shape.min()) if float(shape.min()) > 0 else float("inf")
    return "weight imbalance", f"; the loss weighs its shards {show(spread)} to 1 (class weights, masks)"


def _batch_dependent(setting: Setting, seen: Comparison, error: float, cosine: float) -> Observation:
    return found(
        "MGL102",
        f"no weights make the shards' gradients the whole batch's: {show(error)} apart (relative), cosine {cosine:.2f}",
        where=_loss_place(setting),
        evidence=Evidence(
            value=error,
            threshold=seen.tolerance,
            unit="relative error",
            n={"samples": setting.layout.rows, "ranks": setting.layout.ranks},
            detail=f"best weighted sum leaves {seen.sums.residual:.2g}, in {'float64' if seen.precise else 'float32'}",
        ),
        means="samples meet each other in the model or the loss (contrastive negatives, batch statistics, losses over "
        "the batch): the per-device batch is part of the objective",
        fix="gather embeddings of all ranks before a contrastive loss (with gradients), keep the per-device batch when "
        "the number of devices changes, or accept another objective",
    )


def _with_batchnorm(setting: Setting, seen: Comparison) -> Iterator[Observation]:
    """Repeat with batch norms on: what they alone take away is theirs."""
    model: Any = setting.subject.model
    made = gradients.still(model.make(), batchnorm=True)
    layers = [item for item in gradients.batch_statistics(made) if not isinstance(item[1], torch.nn.SyncBatchNorm)]
    if not layers or seen.sums.weights is None or not float(seen.whole.norm()):
        return
    shards = gradients.split_rows(setting.whole, setting.layout.sizes)
    if min(setting.layout.sizes) < 2:
        return
    if seen.precise:
        made = made.double()
    seed = setting.subject.run.seed
    try:
        with setting.alone():
            whole = gradients.gradient_of(
                made, gradients.split_rows(setting.whole, [setting.layout.rows])[0], setting.objective, seed=seed
            )
            parts = torch.stack(list(gradients.shard_gradients(made, shards, setting.objective, seed=seed)))
    except NndiagError:
        return
    error, cosine = gradients.relative(seen.sums.weights @ parts, whole)
    yield Measurement("gradient_relative_error_with_batchnorm", error, "ratio")
    if error <= MOST_ERROR:
        return
    name, layer = layers[0]
    yield found(
        "MGL102",
        f"batch norm makes the gradient of {setting.layout.words} {show(error)} differ from the whole batch's "
        f"(relative), cosine {cosine:.2f}",
        where=Where(module=name, cls=f"{type(layer).__module__}.{type(layer).__qualname__}"),
        evidence=Evidence(
            value=error,
            threshold=MOST_ERROR,
            unit="relative error",
            n={"samples": setting.layout.rows, "layers": len(layers)},
            detail="the same shards agree to rounding with batch norm in eval mode",
        ),
        means="each shard normalises by its own samples, so the loss is defined by the per-device batch (Goyal et al., "
        "section 2.3): no aggregation makes it equal",
        fix="keep the per-device batch as it is, or convert_sync_batchnorm to define it by the global one",
    )


def _loss_place(setting: Setting) -> Where:
    loss = setting.subject.training.loss
    code = getattr(loss, "__code__", None)
    if code is not None:
        import os

        return Where(module="loss", file=os.path.relpath(code.co_filename), line=code.co_firstlineno)
    place = getattr(setting.subject.model, "where", None) or Where()
    return Where(module="loss", file=place.file, line=place.line)
