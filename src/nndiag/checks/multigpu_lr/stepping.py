"""How often is the user's schedule stepped, and what rate does it give after each update?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nndiag.checks.multigpu_lr.plan import show
from nndiag.science import schedules
from nndiag.science.schedules import Curve

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.checks.multigpu_lr.plan import Plan
    from nndiag.core.recipe import Schedule


@dataclass(frozen=True, slots=True)
class Stepping:
    """The schedule with its counter tied to updates."""

    plan: Plan
    schedule: Schedule
    rate: float  # scheduler steps per update
    curve: Curve
    raised: str = ""  # what the user's scheduler raised before the run was over

    @property
    def horizon(self) -> float | None:
        """Updates of the run: as known, else as far as the schedule was meant to reach."""
        if self.plan.updates:
            return self.plan.updates
        unit = self.unit_updates
        end = self.curve.end or (self.curve.total if self.curve.name == "cosine-restarts" else None)
        if not end:
            return None
        return end * (unit or 1 / self.rate)

    @property
    def unit_updates(self) -> float | None:
        """Updates that one count was meant to be, from the declared unit."""
        recipe, unit = self.plan.recipe, self.schedule.step_unit
        if unit is None:
            return None
        if unit == "optimizer":
            return 1.0
        per = recipe.per_device_batch
        if not recipe.global_batch or (unit == "dataloader" and not per):
            return None
        samples = schedules.samples_per_count(
            unit,
            per_device=per or 0.0,
            devices=self.plan.devices,
            accumulation=recipe.accumulation,
            sharded=self.loader_is_sharded,
            samples=recipe.dataset_size,
        )
        return samples / recipe.global_batch if samples else None

    @property
    def loader_is_sharded(self) -> bool:
        """Whether len(loader), where the counts were taken, is one rank's share already.

        Accelerate shards the loader in prepare(), after its length was usually taken; Lightning and the Trainer
        likewise. A script with a DistributedSampler has the share from the start. With split_batches a batch of the
        loader is the total one.
        """
        recipe = self.plan.recipe
        if recipe.split_batches:
            return True
        if self.schedule.stepped_per == "process":
            return False  # only Accelerate steps so
        return recipe.framework not in ("accelerate", "lightning", "hf") and recipe.sampler != "none"

    def executed(self, update: float) -> float:
        """Return the rate over its peak after this many updates, as stepped."""
        steps = update * self.rate
        return self.curve.factor(math.floor(steps + 1e-9) if self.schedule.stepped_per == "epoch" else steps)

    def intended(self, update: float, ratio: float) -> float:
        """Return the rate over its peak as meant: the same curve with its counter corrected."""
        return self.curve.factor(update * self.rate * ratio)


def stepping(plan: Plan) -> tuple[Stepping | None, str]:
    """Tie the schedule's counter to updates, or say what is missing."""
    recipe, schedule = plan.recipe, plan.recipe.schedule
    if schedule is None:
        return None, "no schedule is declared"
    rate = schedules.steps_per_update(
        schedule.stepped_per,
        devices=plan.devices,
        accumulation=recipe.accumulation,
        updates_per_epoch=plan.updates_per_epoch,
        split=recipe.split_batches,
    )
    if rate is None:
        return None, "a schedule stepped per epoch needs dataset-size and the global batch"
    if schedule.factory is not None:
        return _recorded(plan, schedule, schedule.factory, rate)
    total = schedule.total_steps
    if schedule.managed and plan.updates:
        total = plan.updates
    warmup = schedule.warmup_steps or 0.0
    if schedule.warmup_ratio and plan.updates:
        warmup = math.ceil(schedule.warmup_ratio * plan.updates)
    decay = schedule.decay_steps
    if decay is None and schedule.decay_epochs and plan.updates_per_epoch:
        decay = schedule.decay_epochs * plan.updates_per_epoch * rate
    curve = Curve(
        schedule.name,
        total=total,
        warmup=warmup,
        milestones=schedule.milestones,
        decay=decay,
        gamma=schedule.gamma if schedule.gamma is not None else 0.1,
        cycle=schedule.cycle_steps,
        periodic=schedule.periodic,
    )
    return Stepping(plan, schedule, rate, curve), ""


def _recorded(plan: Plan, schedule: Schedule, factory: Callable[..., Any], rate: float) -> tuple[Stepping | None, str]:
    """Step the user's own scheduler as often as the run would, and read its counts where it is one of torch's."""
    from nndiag.lab.schedule_run import MOST_STEPS, record

    if plan.updates is None:
        return None, "a schedule of your own needs dataset-size, epochs and the global batch to be stepped"
    needed = math.ceil(plan.updates * rate)
    if needed > MOST_STEPS:
        return None, f"the run steps the schedule {show(needed)} times, more than the {show(MOST_STEPS)} tried here"
    # a count that is too large by the usual slips must still be seen to arrive
    longest = max(1.0, plan.devices * plan.recipe.accumulation, plan.k or 1.0)
    seen = record(factory, plan.recipe.lr or 1.0, int(min(MOST_STEPS, max(needed, plan.updates) * longest + 2)))
    counts = dict(seen.counts)
    known = replace(schedule, **{**counts, "name": counts.get("name", "recorded")})
    peak = seen.peak
    table = tuple(item / peak for item in seen.rates) if peak > 0 else seen.rates
    raised = seen.raised and len(seen.rates) <= needed
    curve = Curve(
        "recorded" if raised else "cosine-restarts" if seen.cyclic else known.name,
        total=float(len(seen.rates)) if raised else known.total_steps or (None if seen.cyclic else seen.end),
        warmup=float(seen.warmup),
        milestones=known.milestones,
        decay=known.decay_steps,
        gamma=known.gamma if known.gamma is not None else 0.1,
        cycle=known.cycle_steps,
        table=table,
    )
    made = Stepping(plan, replace(known, name=curve.name), rate, curve, seen.raised if raised else "")
    return made, ""
