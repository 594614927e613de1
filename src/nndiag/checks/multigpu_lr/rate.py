"""Does the learning rate follow the batch, within the range of the rule that was chosen?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nndiag.checks.multigpu_lr.plan import show, times
from nndiag.core.findings import Evidence, Judged, Measurement, Severity, Skip, Table
from nndiag.core.rules import found
from nndiag.science import scaling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.multigpu_lr.plan import Plan
    from nndiag.core.findings import Observation

NEARLY = 1.25  # a rate within a quarter of the rule's is taken as following it
SAME = 1.05
FINE_TUNING_LR, SHORT_RUN_LR, SHORT_RUN_EPOCHS, SMALL_K = 5e-5, 2e-4, 5, 8
TORCH_BETAS = (0.9, 0.999)


def judge_rate(plan: Plan, factor: float = 1.0) -> Iterator[Observation]:
    """MGL001: compare lr / base-lr with the batch ratio.

    Args:
        plan: The recipe.
        factor: What the aggregated gradient was measured to be times the right one; MGL101 judges it, but where it
            makes up for the rate (summed gradients and an unscaled rate are linear scaling) there is nothing to say.
    """
    recipe, k, ratio = plan.recipe, plan.k, plan.rate_ratio
    if recipe.framework == "easgd":
        yield Skip("MGL001", "elastic averaging has no global batch: its learning rate is per worker, not scaled")
        return
    if k is None or ratio is None:
        yield Skip("MGL001", f"needs {_missing(plan)}")
        return
    yield Judged("MGL001")
    yield Measurement("batch_ratio", k, "ratio")
    yield Measurement("learning_rate_ratio", ratio, "ratio")
    low, high = allowed_range(plan, k)
    if any(low / NEARLY <= seen <= high * NEARLY for seen in _seen_by_weights(plan, ratio, factor)) or (
        recipe.rule == "none" and ratio < SAME
    ):
        return
    if 1 / NEARLY < k < NEARLY and not _names_devices(plan, ratio):
        return  # the batch stayed: another rate is a choice, unless it is exactly the number of devices
    yield _rate_finding(plan, k, ratio, (low, high))


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


def judge_warmup(plan: Plan, *, warn: float, note: float, warms_up: bool | None = None) -> Iterator[Observation]:
    """MGL002: a rate that was raised a lot, from the first update on.

    Args:
        plan: The recipe.
        warn: Ratio of rates from which it is a warning.
        note: Ratio of rates from which it is a note.
        warms_up: What the user's own schedule was seen to do; None where it was not stepped.
    """
    recipe, ratio, k = plan.recipe, plan.rate_ratio, plan.k
    if ratio is None or k is None:
        yield Skip("MGL002", f"needs {_missing(plan)}")
        return
    schedule = recipe.schedule
    if schedule is not None and schedule.factory is not None and warms_up is None:
        yield Skip("MGL002", "the warm-up of a schedule of your own is only seen when it is stepped")
        return
    yield Judged("MGL002")
    length = (schedule.warmup_steps or schedule.warmup_ratio or 0.0) if schedule else 0.0
    if length > 0 or warms_up or ratio < note:
        return
    said = "no warm-up is declared" if schedule is None or schedule.warmup_steps is None else "the warm-up is 0 steps"
    per = plan.updates_per_epoch
    goyal = f"; 5 epochs are {scaling.warmup_iterations(recipe.dataset_size, recipe.global_batch)} updates here" if (
        per and recipe.dataset_size and recipe.global_batch) else ""  # fmt: skip
    yield found(
        "MGL002",
        f"the learning rate is {times(ratio)} the tuned one from the first update on: {said}",
        where=plan.where("warmup"),
        evidence=Evidence(value=ratio, threshold=warn if ratio >= warn else note, unit="ratio", detail="lr / base-lr"),
        means="early updates are too large while weights change fast; Goyal et al. at k = 32: 24.84 % error without, "
        "23.74 % with a gradual warm-up, 25.88 % with a constant one",
        fix=f"raise the rate linearly from {show(recipe.base_lr or 0)} to {show(recipe.lr or 0)} over about "
        f"5 epochs{goyal}",
        severity=None if ratio >= warn else Severity.NOTE,
    )


def judge_square_root(plan: Plan) -> Iterator[Observation]:
    """MGL005: the square-root rule also moves Adam's betas, and ends where β1 would reach 0."""
    recipe, k, ratio = plan.recipe, plan.k, plan.rate_ratio
    asked = recipe.rule == "sqrt"
    seems = (
        recipe.rule is None
        and ratio is not None
        and k is not None
        and k > 2
        and abs(math.log(ratio / math.sqrt(k))) < math.log(SAME)
    )
    if k is None:
        yield Skip("MGL005", f"needs {_missing(plan, rates=False)}")
        return
    if not (asked or seems):
        yield Skip("MGL005", "the square-root rule is not in use")
        return
    if plan.adaptive is False:
        yield Judged("MGL005")  # no betas to move
        return
    if plan.adaptive is None:
        yield Skip("MGL005", "needs the optimizer: only Adam's kind has betas to move")
        return
    yield Judged("MGL005")
    betas = base_betas(plan, k)
    scaled = scaling.adam_square_root(recipe.base_lr or recipe.lr or 1.0, k, betas)
    if scaled.valid or k <= 1:
        return
    yield found(
        "MGL005",
        f"at k = {show(k)} the square-root rule asks for β1 = {scaled.betas[0]:.3g}: "
        f"it ends at k = {show(scaled.largest_k)} for β1 = {betas[0]:g}",
        where=plan.where("rule" if asked else "lr"),
        evidence=Evidence(value=k, threshold=scaled.largest_k, unit="ratio", detail="κ against 1 / (1 - β1)"),
        means="the rule keeps Adam's path only together with β → 1 - k(1 - β), which leaves (0, 1); "
        "past that nothing derives √k",
        fix=f"grow the batch to at most {show(scaled.largest_k)}× the base, or measure the gain "
        '(nndiag multigpu-lr --model … --data …) and use rule = "gain"',
        severity=None if asked else Severity.NOTE,
    )


def base_betas(plan: Plan, k: float) -> tuple[float, float]:
    """Return the betas before scaling: as declared, else the present ones unless they are already scaled ones."""
    recipe = plan.recipe
    if recipe.base_betas:
        return recipe.base_betas
    present = recipe.betas or TORCH_BETAS
    already = scaling.adam_square_root(1.0, k, TORCH_BETAS).betas
    if max(abs(have - want) for have, want in zip(present, already, strict=True)) < 0.02:
        return TORCH_BETAS
    return present


def rates_table(plan: Plan, gain: float | None = None) -> Iterator[Observation]:
    """Every rule's rate with the range in which it holds."""
    recipe, k = plan.recipe, plan.k
    if k is None or recipe.base_lr is None:
        return
    adam = scaling.adam_square_root(recipe.base_lr, k, base_betas(plan, k), recipe.eps or 1e-8)
    rows: list[tuple[str, str, str]] = [
        ("linear", show(scaling.linear(recipe.base_lr, k)), "SGD; batch far below the noise scale"),
        ("square root", show(adam.lr), _adam_words(adam) if plan.adaptive is not False else "Adam, not SGD"),
        ("none", show(recipe.base_lr), "small k, or the batch was not grown"),
    ]
    if gain is not None:
        rows.append(("gain", show(recipe.base_lr * gain), f"{times(gain)} from the measured noise scale"))
    if recipe.dataset_size and recipe.base_batch and recipe.global_batch and recipe.global_batch < recipe.dataset_size:
        smith = scaling.smith_rate(recipe.base_lr, recipe.base_batch, recipe.global_batch, recipe.dataset_size)
        rows.append(("equal noise", show(smith), "SGD; keeps lr (N/B - 1)"))
    yield Table("Learning rates", ("rule", "lr", "holds for"), rows)
    yield Measurement("lr_linear", scaling.linear(recipe.base_lr, k), "1")
    yield Measurement("lr_square_root", adam.lr, "1")


def _adam_words(adam: scaling.AdamScaling) -> str:
    if not adam.valid:
        return f"refused: β1 would be {adam.betas[0]:.3g}; ends at k = {show(adam.largest_k)}"
    return f"Adam; betas {adam.betas[0]:.4g}, {adam.betas[1]:.6g}, eps {adam.eps:.2g}"


def _missing(plan: Plan, *, rates: bool = True) -> str:
    recipe = plan.recipe
    wanted = {
        "the global batch (gpus and per-device-batch, or global-batch)": recipe.global_batch,
        "base-batch": recipe.base_batch,
        "lr": recipe.lr if rates else 1,
        "base-lr (the rate of the recipe that worked)": recipe.base_lr if rates else 1,
    }
    return ", ".join(name for name, value in wanted.items() if not value) or "a batch that several devices share"
