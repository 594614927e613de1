"""Does the learning rate follow the batch, within the range of the rule that was chosen?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nndiag.checks.multigpu_lr.plan import show, times
from nndiag.core.findings import Evidence, Judged, Measurement, Severity, Skip
from nndiag.core.rules import found
from nndiag.science import scaling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.multigpu_lr.plan import Plan
    from nndiag.core.findings import Observation

NEARLY = 1.25  # a rate within a quarter of the rule's is taken as following it
SAME = 1.05
FINE_TUNING_LR, SHORT_RUN_LR, SHORT_RUN_EPOCHS, SMALL_K = 5e-5, 2e-4, 5, 8
ADAM_LINEAR_K = 10.0  # 1 / (1 - β1) of the usual β1: past it nothing that was derived for Adam gives any rate


def judge_rate(plan: Plan, factor: float = 1.0) -> Iterator[Observation]:
    """MGL001: compare lr / base-lr with the batch ratio.

    Args:
        plan: The recipe.
        factor: What the aggregated gradient was measured to be times the right one; MGL101 judges it, but where it
            makes up for the rate (summed gradients and an unscaled rate are linear scaling) there is nothing to say.
    """
    recipe, k, ratio = plan.recipe, plan.k, plan.rate_ratio
    if recipe.framework == "easgd":
        yield from _per_worker(plan)
        return
    if plan.rate_free:
        yield Skip("MGL001", f"{recipe.optimizer} finds its own rate: no rule of scaling is about its lr")
        return
    if k is None or ratio is None:
        yield Skip("MGL001", f"needs {missing(plan)}")
        return
    yield Judged("MGL001")
    yield Measurement("batch_ratio", k, "ratio")
    yield Measurement("learning_rate_ratio", ratio, "ratio")
    low, high = allowed_range(plan, k)
    if any(low / NEARLY <= seen <= high * NEARLY for seen in _seen_by_weights(plan, ratio, factor)) or (
        recipe.rule == "none" and ratio < SAME
    ):
        if plan.adaptive and not plan.layerwise and _past_the_root(plan, k, ratio):
            yield _linear_for_adam(plan, k, ratio)
        return
    if 1 / NEARLY < k < NEARLY and not _names_devices(plan, ratio):
        return  # the batch stayed: another rate is a choice, unless it is exactly the number of devices
    yield _rate_finding(plan, k, ratio, (low, high))


def _per_worker(plan: Plan) -> Iterator[Observation]:
    """Elastic averaging: each worker takes steps of its own, so the number of workers multiplies nothing."""
    recipe, ratio = plan.recipe, plan.rate_ratio
    if ratio is None or plan.devices < 2:
        yield Skip("MGL001", "elastic averaging has no global batch: its learning rate is per worker, not scaled")
        return
    yield Judged("MGL001")
    yield Measurement("learning_rate_ratio", ratio, "ratio")
    if not _names_devices(plan, ratio):
        return
    yield found(
        "MGL001",
        f"the learning rate goes {show(recipe.base_lr or 0)} → {show(recipe.lr or 0)} ({times(ratio)}) with "
        f"{plan.devices} workers, but elastic averaging has no global batch to follow",
        where=plan.where(recipe.where_lr or "lr"),
        evidence=Evidence(value=ratio, threshold=1.0, unit="ratio", detail="lr / base-lr, per worker"),
        means="each worker steps by its own gradient and is only pulled towards the centre (Zhang et al. 2015): its "
        "rate is per worker",
        fix=f"lr = {show(recipe.base_lr or 0)} on every worker; what follows the number of workers p is "
        "α = β / p, with β < 2",
    )


def _past_the_root(plan: Plan, k: float, ratio: float) -> bool:
    """Whether the rate follows the batch further than the square root, where that was asked for or is far."""
    return ratio > math.sqrt(k) * NEARLY and (k > ADAM_LINEAR_K or plan.recipe.rule == "linear")


def _linear_for_adam(plan: Plan, k: float, ratio: float) -> Observation:
    """Vision transformers are trained so, with a long warm-up: it works, but no derivation carries it this far."""
    recipe = plan.recipe
    root = scaling.square_root(recipe.base_lr or 0.0, k)
    return found(
        "MGL001",
        f"{recipe.optimizer}'s rate follows the batch linearly ({times(ratio)} at {times(k)}); the square root, which "
        f"is derived for it, would be {show(root)}",
        where=plan.where(recipe.where_lr or "lr"),
        evidence=Evidence(value=ratio, threshold=math.sqrt(k), unit="ratio", detail=f"at batch ratio {k:.6g}"),
        means="Adam divides by the gradient's own size, so linear scaling is not derived for it (Malladi et al. 2022); "
        "it is used with long warm-ups, and may diverge",
        fix=f"lr = {show(root)} (square root), or keep it if it was tuned at this batch",
        severity=Severity.NOTE,
    )


def _seen_by_weights(plan: Plan, ratio: float, factor: float) -> tuple[float, ...]:
    """Return the ratios that may follow the batch; Adam cancels a factor of the gradient."""
    return (ratio,) if plan.adaptive or factor <= 0 else (ratio, ratio * factor)


def allowed_range(plan: Plan, k: float) -> tuple[float, float]:
    """Return the multipliers the declared rule, or any usual one, allows."""
    root = math.sqrt(k)
    rule = plan.recipe.rule
    if rule == "linear":
        return k, k
    if rule == "sqrt":
        return root, root
    if rule == "gain":
        return min(1.0, k), max(1.0, k)
    return min(root, k), max(root, k)


def _names_devices(plan: Plan, ratio: float) -> bool:
    known = {
        "W": float(plan.devices),
        "sqrt W": math.sqrt(plan.devices),
        "W·A": plan.devices * plan.recipe.accumulation,
    }
    return scaling.name_of_factor(ratio, known, SAME - 1) is not None


def _rate_finding(plan: Plan, k: float, ratio: float, allowed: tuple[float, float]) -> Observation:
    recipe = plan.recipe
    base, lr = recipe.base_lr or 0.0, recipe.lr or 0.0
    options = f"linear {show(scaling.linear(base, k))}, square root {show(scaling.square_root(base, k))}"
    grown = f"the batch goes {show(recipe.base_batch or 0)} → {show(recipe.global_batch or 0)} ({times(k)})"
    if 1 / SAME <= ratio <= SAME:
        message = f"{grown} while the learning rate stays {show(lr)}; {options}"
    else:
        message = f"{grown} while the learning rate goes {show(base)} → {show(lr)} ({times(ratio)}); {options}"
    gentle = _is_fine_tuning(plan, k, ratio)
    wanted = allowed[0] if ratio < allowed[0] else allowed[1]
    means = (
        f"per sample the update is {times(ratio / k)} of the tuned recipe's; Goyal et al. lost 41.67 % against "
        "23.74 % error with an unchanged rate at k = 32"
        if ratio < allowed[0]
        else f"per sample the update is {times(ratio / k)} of the tuned recipe's: it may diverge"
    )
    if gentle:
        means = "in a short fine-tuning with Adam an unscaled rate at a small factor is common and mostly harmless"
    return found(
        "MGL001",
        message,
        where=plan.where(recipe.where_lr or "lr"),
        evidence=Evidence(
            value=ratio, threshold=wanted, unit="ratio", detail=f"lr / base-lr against batch ratio {k:.6g}"
        ),
        means=means,
        fix=_fix(plan, k, base),
        severity=Severity.NOTE if gentle else None,
    )


def _fix(plan: Plan, k: float, base: float) -> str:
    linear, root = show(scaling.linear(base, k)), show(scaling.square_root(base, k))
    if plan.adaptive:
        return f'lr = {root} (square root, Adam) and the same number of epochs; or rule = "none" if it was tuned so'
    if plan.adaptive is False:
        return f'lr = {linear} (linear, SGD) with a gradual warm-up over 5 epochs or so; or rule = "none" if tuned so'
    return f'lr = {linear} for SGD, {root} for Adam, with a gradual warm-up; or rule = "none" if it was tuned so'


def _is_fine_tuning(plan: Plan, k: float, ratio: float) -> bool:
    lr, epochs = plan.recipe.lr or 1.0, plan.epochs
    if not 1 / SAME <= ratio <= SAME or not 1 < k <= SMALL_K or plan.adaptive is False:
        return False
    return lr <= FINE_TUNING_LR or (lr <= SHORT_RUN_LR and epochs is not None and epochs <= SHORT_RUN_EPOCHS)


def missing(plan: Plan, *, rates: bool = True) -> str:
    """Say what a comparison of batches, and of rates, still needs."""
    recipe = plan.recipe
    wanted = {
        "the global batch (gpus and per-device-batch, or global-batch)": recipe.global_batch,
        "base-batch": recipe.base_batch,
        "lr": recipe.lr if rates else 1,
        "base-lr (the rate of the recipe that worked)": recipe.base_lr if rates else 1,
    }
    return ", ".join(name for name, value in wanted.items() if not value) or "a batch that several devices share"
