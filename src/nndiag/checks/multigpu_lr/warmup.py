"""Is a rate that was raised a lot reached gradually, and does momentum follow it there?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nndiag.checks.multigpu_lr.plan import show, times
from nndiag.checks.multigpu_lr.rate import missing
from nndiag.core.findings import Evidence, Fact, Judged, Measurement, Severity, Skip
from nndiag.core.rules import found
from nndiag.science import scaling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.multigpu_lr.plan import Plan
    from nndiag.checks.multigpu_lr.stepping import Stepping
    from nndiag.core.findings import Observation

WARNS, NOTES = 6.0, 3.0  # a rate raised this much without warm-up
MEMORY = 10.0  # updates that a momentum of .9 remembers, 1 / (1 - m): a shorter warm-up is a jump


def judge_warmup(plan: Plan, step: Stepping | None) -> Iterator[Observation]:
    """MGL002: a rate that was raised a lot, from the first update on or nearly so.

    Args:
        plan: The recipe.
        step: The schedule with its counter tied to updates; None where that is not possible.
    """
    recipe, ratio, k = plan.recipe, plan.rate_ratio, plan.k
    if ratio is None or k is None:
        yield Skip("MGL002", f"needs {missing(plan)}")
        return
    if plan.rate_free:
        yield Skip("MGL002", f"{recipe.optimizer} finds its own rate")
        return
    schedule = recipe.schedule
    if schedule is not None and schedule.factory is not None and step is None:
        yield Skip("MGL002", "the warm-up of a schedule of your own is only seen when it is stepped")
        return
    yield Judged("MGL002")
    length = _length(plan, step)
    if length >= MEMORY or ratio < NOTES:
        return
    said = "no warm-up is declared" if schedule is None or schedule.warmup_steps is None else "the warm-up is 0 steps"
    if length:
        said = f"the warm-up is over after {show(length)} updates, within momentum's own memory"
    per = plan.updates_per_epoch
    goyal = f"; 5 epochs are {scaling.warmup_iterations(recipe.dataset_size, recipe.global_batch)} updates here" if (
        per and recipe.dataset_size and recipe.global_batch) else ""  # fmt: skip
    threshold = WARNS if ratio >= WARNS else NOTES
    yield found(
        "MGL002",
        f"the learning rate is {times(ratio)} the tuned one "
        f"{'almost at once' if length else 'from the first update on'}: {said}",
        where=plan.where("warmup"),
        evidence=Evidence(value=ratio, threshold=threshold, unit="ratio", detail="lr / base-lr"),
        means="early updates are too large while weights change fast; Goyal et al. at k = 32: 24.84 % error without, "
        "23.74 % with a gradual warm-up, 25.88 % with a constant one",
        fix=f"raise the rate linearly from {show(recipe.base_lr or 0)} to {show(recipe.lr or 0)} over about "
        f"5 epochs{goyal}",
        severity=None if ratio >= WARNS else Severity.NOTE,
    )


def _length(plan: Plan, step: Stepping | None) -> float:
    """Return the warm-up in updates; infinite where there is one that cannot be counted in updates."""
    schedule = plan.recipe.schedule
    if step is not None:
        return step.curve.warmup / step.rate
    return math.inf if schedule is not None and (schedule.warmup_steps or schedule.warmup_ratio) else 0.0


def momentum_correction(plan: Plan, absorbs: bool | None) -> Iterator[Observation]:
    """Say whether momentum must be corrected where the rate changes (Goyal et al. 2017, remark 2).

    Args:
        plan: The recipe.
        absorbs: Whether the user's own optimizer was seen to keep the rate inside its buffer; None where it was not
            tried, and the framework's own is meant.
    """
    recipe, ratio = plan.recipe, plan.rate_ratio
    if not ratio or ratio <= NOTES or not (recipe.momentum or absorbs):
        return
    momentum = recipe.momentum or 0.9
    if absorbs is None:
        absorbs = recipe.framework == "mirrored" and "sgd" in (recipe.optimizer or "")
    if not absorbs:
        yield Fact("momentum_correction", "not needed", "")
        return
    first, steps = scaling.absorbed_momentum(ratio, momentum)
    yield Measurement("momentum_first_update", first, "ratio")
    yield Fact(
        "momentum_correction",
        f"multiply the velocity by {ratio:.6g} where the rate does",
        f"momentum correction: velocity × new rate / old rate, or the first update is {first:.0%} of the right one "
        f"and {steps} updates pass until 90 %",
    )
