"""Does every sample count once, on every rank alike, under the same statistics?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.checks.multigpu_lr.plan import show
from nndiag.core.findings import Evidence, Judged, Measurement, Severity, Skip, Where
from nndiag.core.rules import found
from nndiag.science import scaling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.multigpu_lr.plan import Plan
    from nndiag.core.findings import Finding, Observation

HEAVIER = 1.02  # a sample that weighs 2 % more than its share
PADDING_WARNS, PADDING_NOTES = 1e-2, 1e-3  # share of the data that is repeated


def judge_shards(plan: Plan) -> Iterator[Observation]:
    """MGL007: a mean of per-rank means is not the mean when ranks hold unequal numbers."""
    recipe = plan.recipe
    sizes = recipe.shard_sizes
    deduced = False
    if not sizes and recipe.global_batch and recipe.devices and "per_device_batch" in recipe.deduced:
        per = recipe.global_batch / recipe.devices / recipe.accumulation
        if per != int(per) and recipe.global_batch >= recipe.devices:
            total, ranks = int(recipe.global_batch), recipe.devices
            sizes = tuple(total // ranks + (rank < total % ranks) for rank in range(ranks))
            deduced = True
    if not sizes:
        if plan.devices > 1 and recipe.per_device_batch:
            yield Judged("MGL007")  # every device has the same per-device batch
        else:
            yield Skip("MGL007", "needs gpus and per-device-batch, or shard-sizes")
        return
    yield Judged("MGL007")
    if sum(sizes) == 0:
        return
    weights = scaling.mean_of_means(sizes)
    batches = {-(-size // max(1, int(recipe.per_device_batch or size or 1))) for size in sizes}
    yield Measurement("heaviest_sample", weights.heaviest, "ratio")
    empty = [rank for rank, size in enumerate(sizes) if size == 0]
    if weights.heaviest <= HEAVIER and not empty and (len(batches) == 1 or recipe.drop_last):
        return
    yield found(
        "MGL007",
        f"shards of {_sizes(sizes)} samples: a sample on the smallest rank weighs {weights.heaviest:.2f}× its share"
        + (f", rank {empty[0]} has none" if empty else ""),
        where=plan.where("global-batch" if deduced else "shard-sizes"),
        evidence=Evidence(
            value=weights.heaviest,
            threshold=HEAVIER,
            unit="ratio",
            n={"ranks": len(sizes), "samples": sum(sizes)},
            detail=f"{weights.effective:.4g} of {sum(sizes)} samples count effectively",
        ),
        means="data-parallel training averages the ranks' means, each with weight 1/W; ranks with different numbers of "
        "batches also wait for each other",
        fix="all-reduce sum(loss) and sum(count) and divide (with DDP multiply the local sum by W / total count), give "
        "every rank the same number (DistributedSampler, drop_last), or wrap the loop in model.join()",
    )


def judge_sampler(plan: Plan) -> Iterator[Observation]:
    """MGL008: repeated samples, repeated orders, or every rank with the same data."""
    recipe = plan.recipe
    if plan.devices <= 1:
        yield Judged("MGL008") if recipe.devices == 1 else Skip("MGL008", "needs gpus")
        return
    if recipe.sampler is None and recipe.set_epoch is None:
        yield Skip("MGL008", 'needs sampler = "distributed" or "none", and set-epoch')
        return
    yield Judged("MGL008")
    if recipe.sampler == "none":
        yield _finding(
            plan,
            "sampler",
            f"without a distributed sampler each of the {plan.devices} ranks reads the whole data set",
            value=plan.devices,
            unit="times per epoch",
            means="an epoch shows every sample W times; with equal seeds the ranks even take the same batches, and N "
            "devices compute what one would",
            fix="DataLoader(..., sampler=DistributedSampler(dataset)), or let Accelerate, Lightning or the "
            "Trainer shard it",
        )
        return
    if recipe.set_epoch is False:
        yield _finding(
            plan,
            "set-epoch",
            "without sampler.set_epoch(epoch) the order is the same in every epoch",
            value=1,
            unit="orders",
            means="DistributedSampler seeds its shuffle with seed + epoch, and the epoch stays 0: batches "
            "repeat exactly",
            fix="call loader.sampler.set_epoch(epoch) at the start of every epoch",
        )
    yield from _padding(plan)


def _padding(plan: Plan) -> Iterator[Observation]:
    recipe = plan.recipe
    if not recipe.dataset_size or recipe.drop_last:
        return
    repeats = scaling.sampler_padding(recipe.dataset_size, plan.devices)
    yield Measurement("sampler_repeats", repeats, "samples")
    portion = repeats / recipe.dataset_size
    declared = "sampler" not in recipe.deduced
    if portion < (PADDING_NOTES if declared else PADDING_WARNS):
        return
    yield _finding(
        plan,
        "sampler",
        f"DistributedSampler repeats {repeats} of {recipe.dataset_size} samples so that {plan.devices} ranks "
        "get as many",
        value=repeats,
        unit="samples",
        means=f"{portion:.2%} of the data count twice in every epoch; evaluation metrics are biased by them",
        fix="drop_last=True for training; evaluate on one rank, or drop the repeats (accelerate's gather_for_metrics)",
        severity=None if portion >= PADDING_WARNS else Severity.NOTE,
    )


def _finding(  # noqa: PLR0913 - the parts of one finding
    plan: Plan,
    key: str,
    message: str,
    *,
    value: float,
    unit: str,
    means: str,
    fix: str,
    severity: Severity | None = None,
) -> Finding:
    return found(
        "MGL008",
        message,
        where=plan.where(key),
        evidence=Evidence(value=value, unit=unit, threshold=0 if unit == "samples" else None),
        means=means,
        fix=fix,
        severity=severity,
    )


def judge_batchnorm(plan: Plan, model: Any, *, smallest: int) -> Iterator[Observation]:
    """MGL009: each replica normalises by its own few samples.

    Args:
        plan: The recipe.
        model: The module, or None when none was given.
        smallest: Samples per replica below which it costs accuracy.
    """
    recipe = plan.recipe
    if model is None:
        yield Skip("MGL009", "needs --model")
        return
    per = recipe.per_device_batch
    if recipe.devices is None or per is None:
        yield Skip("MGL009", "needs gpus and per-device-batch")
        return
    yield Judged("MGL009")
    layers = _batchnorms(model)
    if plan.devices <= 1 or not layers or per >= smallest:
        return
    name, cls = layers[0]
    yield found(
        "MGL009",
        f"{len(layers)} batch-norm layers normalise by {show(per)} samples on each of {plan.devices} devices",
        where=Where(module=name, cls=cls),
        evidence=Evidence(
            value=per,
            threshold=smallest,
            unit="samples",
            n={"layers": len(layers), "devices": plan.devices},
            detail=f"training divides by the biased variance, {(per - 1) / per:.3g} of what evaluation uses",
        ),
        means="statistics of few samples are noise, the saved running ones come from rank 0 alone, and the "
        "loss is that "
        "of the per-device batch, whatever the global one",
        fix="torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) (Keras: "
        "BatchNormalization(synchronized=True)), group "
        "norm, or at least 16 samples per device",
    )


def _batchnorms(model: Any) -> list[tuple[str, str]]:
    """Return the batch norms that learn from each replica alone; frozen and synchronised ones do not."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    found_layers = []
    for name, module in model.named_modules():
        kind = type(module)
        if isinstance(module, nn.SyncBatchNorm) or getattr(module, "synchronized", False):
            continue
        keras = kind.__name__ == "BatchNormalization" and kind.__module__.startswith("keras")
        if not (isinstance(module, _BatchNorm) or keras):
            continue
        frozen = not module.training and not any(item.requires_grad for item in module.parameters())
        if not frozen:
            found_layers.append((name, f"{kind.__module__}.{kind.__qualname__}"))
    return found_layers


def _sizes(sizes: tuple[int, ...]) -> str:
    shown = ", ".join(str(size) for size in sizes[:8])
    return shown + (f", … ({len(sizes)} ranks)" if len(sizes) > 8 else "")
