"""When does the schedule arrive, as it is really stepped, and when was it meant to?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.checks.multigpu_lr.plan import show
from nndiag.science import scaling

if TYPE_CHECKING:
    from nndiag.checks.multigpu_lr.plan import Plan
    from nndiag.checks.multigpu_lr.stepping import Stepping

ON_TIME = 1.06  # rounding of epochs to whole updates stays below this
NEAR = 0.03  # a ratio this close to a known factor is that factor
VANISHED = 1e-12  # a rate this small beside its peak trains nothing


@dataclass(frozen=True, slots=True)
class Landmark:
    """A moment that a schedule was made for."""

    verb: str  # "ends", "first decays", "last decays", "warms up until", "restarts first"
    key: str  # the config key that holds its count


ENDS = Landmark("ends", "total-steps")
FIRST, LAST = Landmark("first decays", "decay-steps"), Landmark("last decays", "milestones")
WARM = Landmark("warms up until", "warmup-steps")


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the schedule's landmark falls, in updates."""

    mark: Landmark
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


def timing(step: Stepping) -> Timing | None:
    """Compare the landmark of the schedule with what was meant; None when it has no count at all."""
    schedule = step.schedule
    if schedule.managed:  # its end is the run's, but a warm-up in updates can outlast the run
        return _beyond(step, WARM, step.curve.warmup)
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


def _by_unit(step: Stepping, mark: Landmark, count: float) -> Timing | None:
    """Judge by the declared unit alone."""
    unit = step.unit_updates
    if unit is None:
        return None
    said = {"optimizer": "optimizer updates", "dataloader": "loader batches", "epoch": "epochs"}
    reading = f"counted in {said[step.schedule.step_unit or 'optimizer']}, stepped {_rate_words(step)}"
    return _timed(step, mark, count, count * unit, reading)


def _timed(step: Stepping, mark: Landmark, count: float, intended: float, reading: str) -> Timing:
    executed = count / step.rate
    ratio = executed / intended
    if 1 / ON_TIME <= ratio <= ON_TIME:
        return _on_time(step, mark, count, intended, reading)
    name = scaling.name_of_factor(ratio, factors(step.plan), NEAR)
    return Timing(mark, count, executed, intended, ratio, _plain(name[0] if name else ""), reading)


def _on_time(step: Stepping, mark: Landmark, count: float, intended: float | None = None, reading: str = "") -> Timing:
    return Timing(mark, count, count / step.rate, intended, 1.0, "", reading)


def _plain(name: str) -> str:
    return name.removeprefix("1 / ")


def _ending(step: Stepping) -> Timing | None:  # noqa: PLR0911 - one return per source of the intention
    """linear, cosine: they should arrive when the run ends."""
    count, run = step.curve.total, step.plan.updates
    if not count and step.curve.table:
        return None  # it never comes down
    if not count:
        return _unknown(step, ENDS, 0.0, "total-steps")
    by_unit = _by_unit(step, ENDS, count)
    if run is None:
        return by_unit or _unknown(step, ENDS, count, "dataset-size and epochs, or step-unit")
    reading = f"the run has {show(step.plan.epochs)} epochs" if step.plan.epochs else f"the run has {show(run)} updates"
    if any(1 / ON_TIME <= end / step.rate / run <= ON_TIME for end in (count, count + step.curve.warmup)):
        return _on_time(step, ENDS, count, run, reading)
    by_run = _timed(step, ENDS, count, run, reading)
    if by_run.factor:
        return by_run
    if by_unit is not None:
        return by_unit
    return _on_time(step, ENDS, count, run, reading)  # shorter or longer by choice


def _milestones(step: Stepping) -> Timing | None:
    """multistep: the last milestone should fall inside the run, and not all of them into its first moments."""
    stones = sorted(step.schedule.milestones)
    if not stones:
        return None
    last = stones[-1]
    by_unit = _by_unit(step, LAST, last)
    if by_unit is not None and by_unit.ratio != 1:
        return by_unit
    run, epochs, per = step.plan.updates, step.plan.epochs, step.plan.updates_per_epoch
    if run is None:
        return by_unit or _unknown(step, LAST, last, "dataset-size and epochs, or step-unit")
    executed = last / step.rate
    if epochs and per and last <= epochs and per > 2 * step.rate and step.rate >= 1 and executed < 0.1 * run:
        return _timed(step, LAST, last, last * per, "the milestones are epochs")
    return _beyond(step, LAST, last) or by_unit or _on_time(step, LAST, last)


def _decay(step: Stepping) -> Timing | None:  # noqa: PLR0911 - one return per source of the intention
    """step, exponential: the first decay should come when it was meant to, and inside the run."""
    schedule, per, run = step.schedule, step.plan.updates_per_epoch, step.plan.updates
    count = schedule.decay_steps
    if schedule.decay_epochs and count and per:
        reading = f"decay-epochs = {show(schedule.decay_epochs)}"
        return _timed(step, FIRST, count, schedule.decay_epochs * per, reading)
    if schedule.decay_epochs and not count:
        return None  # counted in epochs from the start
    if schedule.decay_epochs and count and not per:
        return _unknown(step, FIRST, count, "dataset-size and the global batch")
    count = count or 1.0
    by_unit = _by_unit(step, FIRST, count)
    if by_unit is not None:
        return by_unit
    if run is None:
        return _unknown(step, FIRST, count, "dataset-size and epochs, or step-unit")
    gamma, epochs = step.curve.gamma, step.plan.epochs or 0.0
    left, meant = gamma ** (run * step.rate / count), gamma ** (epochs / count)
    if per and count <= epochs and left < VANISHED and meant > 1e-9 and per > 2 * step.rate:
        return _timed(step, FIRST, count, count * per, "the count is in epochs")
    return _beyond(step, FIRST, count) or _on_time(step, FIRST, count)


def _beyond(step: Stepping, mark: Landmark, count: float) -> Timing | None:
    """A landmark after the end of the run that the right counter would put inside it."""
    run, executed = step.plan.updates, count / step.rate
    if run is None or executed <= run * ON_TIME:
        return None
    fits = [(value, name) for name, value in factors(step.plan).items() if 1 < executed / run <= value * ON_TIME]
    if not fits:
        return None  # no usual slip explains it: a decay that was switched off
    value, name = min(fits, key=lambda fit: fit[0])
    reading = f"the run ends before, at {step.plan.when(run)}"
    return Timing(mark, count, executed, executed / value, value, _plain(name), reading)


def _cycle(step: Stepping) -> Timing | None:
    count = step.schedule.cycle_steps or step.schedule.total_steps
    if not count:
        return None
    key = "cycle-steps" if step.schedule.cycle_steps else "total-steps"
    return _by_unit(step, Landmark("restarts first", key), count) or _unknown(
        step, Landmark("restarts first", key), count, "step-unit"
    )


def _warmup(step: Stepping) -> Timing | None:
    """A constant rate has only its warm-up to be wrong about."""
    count = step.curve.warmup
    if not count:
        return None
    by_unit = _by_unit(step, WARM, count)
    if by_unit is not None:
        return by_unit
    if step.plan.updates is None:
        return _unknown(step, WARM, count, "dataset-size and epochs, or step-unit")
    return _beyond(step, WARM, count) or _on_time(step, WARM, count)


def _unknown(step: Stepping, mark: Landmark, count: float, missing: str) -> Timing:
    return Timing(mark, count, count / step.rate, None, 1.0, "", "", unknown=missing)


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
