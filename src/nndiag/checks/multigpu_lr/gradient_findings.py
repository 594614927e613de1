"""What is wrong with an aggregated gradient: a factor, unequal weights, or a loss that is about the batch itself?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - imported only where a model is

from nndiag.checks.multigpu_lr.plan import show, times
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Evidence, Measurement, Severity, Where
from nndiag.core.rules import found
from nndiag.lab import gradients
from nndiag.lab.forward import in_precision
from nndiag.science.scaling import name_of_factor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.multigpu_lr.comparison import Comparison
    from nndiag.checks.multigpu_lr.measured import Setting
    from nndiag.core.findings import Observation

MOST_ERROR = 0.05  # of the whole batch's gradient: less is lost in its own noise
GROSS = 0.5  # from here on unequal weights turn or resize the gradient itself


def factor_finding(setting: Setting, seen: Comparison, factor: float | None, size: tuple[float, float]) -> Observation:
    """MGL101: the factor with its name, or the unequal weights with their reason."""
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
    spread = gradients.scatter(seen.parts, seen.whole)
    small = error < GROSS and not kind.startswith("shard")
    return found(
        "MGL101",
        f"{kind}: {laid.words} give a gradient {show(error)} off (relative), cosine {cosine:.2f}{words}",
        where=where,
        evidence=evidence,
        means="a mean of means gives a sample in a small or short shard more weight than one in a large shard"
        + (f"; what the draw of the batch does to its gradient is {show(spread)}" if small else ""),
        fix="sum the loss, all-reduce sum and count over ranks and micro-batches, divide once (with DDP: local sum × "
        "world size / total count); transformers ≥ 4.46 does so with num_items_in_batch",
        severity=None if not small else Severity.NOTE if error < spread else Severity.WARNING,
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
            return f"{kind} imbalance", f"; shards hold {low} to {high} {'samples' if same else words}"
    spread = float(shape.max() / shape.min()) if float(shape.min()) > 0 else float("inf")
    return (
        "weight imbalance",
        f"; the loss weighs its shards {show(spread)} to 1 (class weights, masks, a loss that is no mean)",
    )


def batch_dependent(setting: Setting, seen: Comparison, error: float, cosine: float) -> Observation:
    """MGL102: the loss of the batch is no sum over its shards."""
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


def with_batchnorm(setting: Setting, seen: Comparison) -> Iterator[Observation]:
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
        made = in_precision(made, torch.float64)
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
