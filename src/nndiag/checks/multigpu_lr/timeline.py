"""When does the schedule arrive, as it is really stepped, and when was it meant to?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nndiag.checks.multigpu_lr.plan import show
from nndiag.science import scaling, schedules
from nndiag.science.schedules import Curve

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.checks.multigpu_lr.plan import Plan
    from nndiag.core.recipe import Schedule

ON_TIME = 1.06  # rounding of epochs to whole updates stays below this
NEAR = 0.03  # a ratio this close to a known factor is that factor
VANISHED = 1e-12  # a rate this small beside its peak trains nothing


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the schedule's landmark falls, in updates."""

    landmark: str  # "ends", "first decays", "last decays", "warms up until", "restarts first"
    key: str  # the config key that holds the count
    count: float  # as written
    executed: float  # updates until it is reached
    intended: float | None  # updates until it should be reached; None when nothing says so
    ratio: float  # executed / intended; 1 when on time or unknown
    factor: str  # the factor's name: "the number of devices"
    reading: str  # why that was intended
    unknown: str = ""  # what is missing to judge

    @property
    def late(self) -> bool:
        """Whether it comes later than meant."""
        return self.ratio > 1


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


def timing(step: Stepping) -> Timing | None:
    """Compare the landmark of the schedule with what was meant; None when it has no count at all."""
    schedule = step.schedule
    if schedule.managed:  # its end is the run's, but a warm-up in updates can outlast the run
        return _beyond(step, "warms up until", "warmup-steps", step.curve.warmup)
    judges = {
        "linear": _ending,
        "cosine": _ending,
        "recorded": _ending,
        "multistep": _milestones,
        "step": _decay,
        "exponential": _decay,
        "cosine-restarts": _cycle,
    }
    found = judges.get(schedule.name, _warmup)(step)
    return found or _warmup(step)


def factors(plan: Plan) -> dict[str, float]:
    """Return the factors by which a count is usually off, by name."""
    recipe = plan.recipe
    W, A = float(plan.devices), float(recipe.accumulation)
    named = {"the number of devices": W, "the accumulation steps": A, "devices × accumulation": W * A}
    if plan.k:
        named["the batch ratio"] = plan.k
    per = plan.updates_per_epoch
    if per:
        named |= {
            "updates per epoch": per,
            "loader batches per epoch": per * A,
            "unsharded loader batches per epoch": per * A * W,
        }
    both = {**named, **{f"1 / {name}": 1 / value for name, value in named.items() if value}}
    return {name: value for name, value in both.items() if abs(math.log(value)) > math.log(ON_TIME)}


def _by_unit(step: Stepping, landmark: str, key: str, count: float) -> Timing | None:
    """Judge by the declared unit alone."""
    unit = step.unit_updates
    if unit is None:
        return None
    executed, intended = count / step.rate, count * unit
    said = {"optimizer": "optimizer updates", "dataloader": "loader batches", "epoch": "epochs"}
    reading = f"counted in {said[step.schedule.step_unit or 'optimizer']}, stepped {_rate_words(step)}"
    return _timed(step, landmark, key, count, executed, intended, reading)


def _timed(  # noqa: PLR0913, PLR0917 - one record's fields
    step: Stepping, landmark: str, key: str, count: float, executed: float, intended: float, reading: str
) -> Timing:
    ratio = executed / intended
    if 1 / ON_TIME <= ratio <= ON_TIME:
        return Timing(landmark, key, count, executed, intended, 1.0, "", reading)
    name = scaling.name_of_factor(ratio, factors(step.plan), NEAR)
    return Timing(landmark, key, count, executed, intended, ratio, _plain(name[0] if name else ""), reading)


def _plain(name: str) -> str:
    return name.removeprefix("1 / ")


def _ending(step: Stepping) -> Timing | None:  # noqa: PLR0911 - one return per source of the intention
    """linear, cosine: they should arrive when the run ends."""
    count, run = step.curve.total, step.plan.updates
    if not count and step.curve.table:
        return None  # it never comes down
    if not count:
        return _unknown(step, "ends", "total-steps", 0.0, "total-steps")
    by_unit = _by_unit(step, "ends", "total-steps", count)
    if run is None:
        return by_unit or _unknown(step, "ends", "total-steps", count, "dataset-size and epochs, or step-unit")
    reading = f"the run has {show(step.plan.epochs)} epochs" if step.plan.epochs else f"the run has {show(run)} updates"
    executed = count / step.rate
    if any(1 / ON_TIME <= end / step.rate / run <= ON_TIME for end in (count, count + step.curve.warmup)):
        return Timing("ends", "total-steps", count, executed, run, 1.0, "", reading)
    by_run = _timed(step, "ends", "total-steps", count, executed, run, reading)
    if by_run.factor:
        return by_run
    if by_unit is not None:
        return by_unit
    return Timing("ends", "total-steps", count, executed, run, 1.0, "", reading)  # shorter or longer by choice


def _milestones(step: Stepping) -> Timing | None:
    """multistep: the last milestone should fall inside the run, and not all of them into its first moments."""
    stones = sorted(step.schedule.milestones)
    if not stones:
        return None
    last = stones[-1]
    by_unit = _by_unit(step, "last decays", "milestones", last)
    if by_unit is not None and by_unit.ratio != 1:
        return by_unit
    run, epochs, per = step.plan.updates, step.plan.epochs, step.plan.updates_per_epoch
    if run is None:
        return by_unit or _unknown(step, "last decays", "milestones", last, "dataset-size and epochs, or step-unit")
    executed = last / step.rate
    if epochs and per and last <= epochs and per > 2 * step.rate and step.rate >= 1 and executed < 0.1 * run:
        return _timed(step, "last decays", "milestones", last, executed, last * per, "the milestones are epochs")
    return (
        _beyond(step, "last decays", "milestones", last)
        or by_unit
        or Timing("last decays", "milestones", last, executed, None, 1.0, "", "")
    )


def _decay(step: Stepping) -> Timing | None:  # noqa: PLR0911 - one return per source of the intention
    """step, exponential: the first decay should come when it was meant to, and inside the run."""
    schedule, per, run = step.schedule, step.plan.updates_per_epoch, step.plan.updates
    count = schedule.decay_steps
    if schedule.decay_epochs and count and per:
        reading = f"decay-epochs = {show(schedule.decay_epochs)}"
        return _timed(
            step, "first decays", "decay-steps", count, count / step.rate, schedule.decay_epochs * per, reading
        )
    if schedule.decay_epochs and not count:
        return None  # counted in epochs from the start
    if schedule.decay_epochs and count and not per:
        return _unknown(step, "first decays", "decay-steps", count, "dataset-size and the global batch")
    count = count or 1.0
    by_unit = _by_unit(step, "first decays", "decay-steps", count)
    if by_unit is not None:
        return by_unit
    if run is None:
        return _unknown(step, "first decays", "decay-steps", count, "dataset-size and epochs, or step-unit")
    gamma, epochs = step.curve.gamma, step.plan.epochs or 0.0
    left, meant = gamma ** (run * step.rate / count), gamma ** (epochs / count)
    if per and count <= epochs and left < VANISHED and meant > 1e-9 and per > 2 * step.rate:
        return _timed(
            step, "first decays", "decay-steps", count, count / step.rate, count * per, "the count is in epochs"
        )
    return _beyond(step, "first decays", "decay-steps", count) or Timing(
        "first decays", "decay-steps", count, count / step.rate, None, 1.0, "", ""
    )


def _beyond(step: Stepping, landmark: str, key: str, count: float) -> Timing | None:
    """A landmark after the end of the run that the right counter would put inside it."""
    run, executed = step.plan.updates, count / step.rate
    if run is None or executed <= run * ON_TIME:
        return None
    fits = [(value, name) for name, value in factors(step.plan).items() if 1 < executed / run <= value * ON_TIME]
    if not fits:
        return None  # no usual slip explains it: a decay that was switched off
    value, name = min(fits, key=lambda fit: fit[0])
    reading = f"the run ends before, at {step.plan.when(run)}"
    return Timing(landmark, key, count, executed, executed / value, value, _plain(name), reading)


def _cycle(step: Stepping) -> Timing | None:
    count = step.schedule.cycle_steps or step.schedule.total_steps
    if not count:
        return None
    key = "cycle-steps" if step.schedule.cycle_steps else "total-steps"
    return _by_unit(step, "restarts first", key, count) or _unknown(step, "restarts first", key, count, "step-unit")


def _warmup(step: Stepping) -> Timing | None:
    """A constant rate has only its warm-up to be wrong about."""
    count = step.curve.warmup
    if not count:
        return None
    by_unit = _by_unit(step, "warms up until", "warmup-steps", count)
    if by_unit is not None:
        return by_unit
    if step.plan.updates is None:
        return _unknown(step, "warms up until", "warmup-steps", count, "dataset-size and epochs, or step-unit")
    return _beyond(step, "warms up until", "warmup-steps", count) or Timing(
        "warms up until", "warmup-steps", count, count / step.rate, None, 1.0, "", ""
    )


def _unknown(step: Stepping, landmark: str, key: str, count: float, missing: str) -> Timing:
    return Timing(landmark, key, count, count / step.rate, None, 1.0, "", "", unknown=missing)


def _rate_words(step: Stepping) -> str:
    """Say how often step() runs."""
    words = {
        "process": "once per process and update",
        "micro-batch": "once per micro-batch",
        "epoch": "once per epoch",
        "optimizer": "once per update",
    }
    said = words[step.schedule.stepped_per]
    return f"{said} ({show(step.rate)} per update)" if step.rate > 1 else said
