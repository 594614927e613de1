"""Does the schedule end when the training does, and stay down once it is there?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.checks.multigpu_lr.plan import show, times
from nndiag.checks.multigpu_lr.stepping import Stepping
from nndiag.checks.multigpu_lr.timeline import Timing, factors, timing
from nndiag.core.findings import Evidence, Judged, Measurement, Series, Skip, Table
from nndiag.core.rules import found
from nndiag.science import scaling, schedules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.core.findings import Observation

RISE = 0.02  # of the peak: a rebound smaller than this is rounding at the end
POINTS = 4001
EPOCH_ROWS = 8


def judge_schedule(step: Stepping | None, missing: str = "") -> Iterator[Observation]:
    """MGL003 and MGL004, with the curves as executed and as intended.

    Args:
        step: The schedule, its counter tied to updates; None where that is not possible.
        missing: Why it is not.
    """
    if step is None:
        for code in ("MGL003", "MGL004"):
            yield Skip(code, missing)
        return
    when = timing(step)
    if step.raised:
        yield Judged("MGL003")
        yield _raises(step)
    else:
        yield from _unit(step, when)
    early = when is not None and when.intended is not None and when.ratio < 1
    yield from _rebound(step, after_its_end=early)
    yield from _curves(step, when.ratio if when else 1.0)


def _unit(step: Stepping, when: Timing | None) -> Iterator[Observation]:
    if when is not None and when.unknown:
        yield Skip("MGL003", f"the unit of the schedule's counts is unknown: needs {when.unknown}")
        return
    yield Judged("MGL003")
    if when is None:
        return
    plan = step.plan
    yield Measurement("schedule_landmark", when.executed, "updates", where=when.mark.key)
    if when.ratio == 1 or when.intended is None:
        return
    name = step.schedule.name
    side = f"{times(when.ratio)} too late" if when.late else f"{times(1 / when.ratio)} too early"
    why = f": {when.factor}" if when.factor else ""
    run = plan.updates
    never = run is not None and when.executed > run * 1.06
    met = f"would only come at {plan.when(when.executed)}" if never else f"comes at {plan.when(when.executed)}"
    what = {
        "ends": "the end of the schedule" if name == "recorded" else f"the end of {name}",
        "first decays": "the first decay",
        "last decays": "the last milestone",
        "warms up until": "the end of the warm-up",
        "restarts first": "the first restart",
    }[when.mark.verb]
    yield found(
        "MGL003",
        f"{what} {met} instead of {plan.when(when.intended)}, {side}{why}",
        where=plan.where(f"schedule.{when.mark.key}"),
        evidence=Evidence(
            value=when.ratio,
            threshold=1.0,
            unit="ratio",
            detail=f"{when.mark.key} = {show(when.count)}; {show(step.rate)} scheduler steps per update; "
            f"{when.reading}",
        ),
        means="the count was made for another number of updates: an update holds "
        f"{show(plan.recipe.global_batch or 0)} samples here"
        if plan.recipe.global_batch
        else "the count and the calls of step() do not mean the same thing",
        fix=f"{when.mark.key} = {show(_whole(when.count / when.ratio))}, or count in samples or epochs and convert; "
        "step the scheduler once per optimizer update",
    )


def _raises(step: Stepping) -> Observation:
    """The user's scheduler refuses to be stepped as often as the run steps it."""
    plan, run = step.plan, step.plan.updates or 0.0
    count = step.curve.total or 0.0
    at = count / step.rate
    named = scaling.name_of_factor(run / at, factors(plan), 0.06) if at else None
    why = f", ×{show(run / at)} too early: {named[0].removeprefix('1 / ')}" if named else ""
    return found(
        "MGL003",
        f"the schedule raises at {plan.when(at)} of {plan.when(run)}{why} ({step.raised})",
        where=plan.where("schedule.name"),
        evidence=Evidence(
            value=at / run if run else None,
            threshold=1.0,
            unit="ratio",
            detail=f"{show(count)} steps, {show(step.rate)} scheduler steps per update",
        ),
        means="it was made for fewer steps than the loop calls: the training will stop there",
        fix=f"make it for {show(round(run * step.rate))} steps, or step it once per optimizer update",
    )


def _whole(value: float) -> float:
    return float(round(value)) if value >= 1 else value


def _rebound(step: Stepping, *, after_its_end: bool) -> Iterator[Observation]:
    """MGL004.

    Args:
        step: The schedule, its counter tied to updates.
        after_its_end: Whether MGL003 has said that the schedule ends too early: the rebound is then its second harm.
    """
    horizon = step.horizon
    if horizon is None or _is_endless(step):
        yield Skip("MGL004", "needs total-steps, and dataset-size and epochs, or step-unit")
        return
    yield Judged("MGL004")
    if step.curve.name == "cosine-restarts":
        return  # it rises by design
    x = schedules.grid(horizon, POINTS)
    y = [step.executed(update) for update in x]
    back = schedules.rebound(x, y)
    if back is None or back.rise < RISE:
        return
    plan = step.plan
    mean, peak = sum(y) / len(y), plan.recipe.lr or 1.0
    unit = "" if plan.recipe.lr else " of the peak"
    yield found(
        "MGL004",
        f"the learning rate falls to {show(back.low * peak)}{unit} at {plan.when(back.low_at)} and is back at "
        f"{show(back.high * peak)}{unit} at {plan.when(back.high_at)}",
        where=plan.where("schedule.total-steps"),
        evidence=Evidence(
            value=back.rise,
            threshold=RISE,
            unit="of the peak",
            detail=f"{show(step.rate)} scheduler steps per update over {show(horizon)} updates; "
            f"mean {mean:.3g} of the peak, which alone looks right",
        ),
        means="cosine is periodic: stepped past its end it climbs as it fell, and late training gets rates meant for "
        "its middle" + ("; it has the cause of MGL003, and what mends that mends this" if after_its_end else ""),
        fix=f"make total-steps the number of scheduler steps ({show(round(horizon * step.rate))}), or step once per "
        "optimizer update",
    )


def _is_endless(step: Stepping) -> bool:
    """Whether the shape needs a total that nobody gave."""
    return step.curve.name in ("linear", "cosine") and not step.curve.total and not step.curve.table


def _curves(step: Stepping, ratio: float) -> Iterator[Observation]:
    """The rate over the run as executed and as intended: series, and a table of epochs."""
    horizon = step.horizon
    if horizon is None or _is_endless(step):
        return
    plan, recipe = step.plan, step.plan.recipe
    per = plan.updates_per_epoch
    unit, scale = ("epochs", per) if per else ("updates", 1.0)
    peak = recipe.lr or 1.0
    rate_unit = "lr" if recipe.lr else "of the peak"
    at = schedules.grid(horizon)
    x = [update / scale for update in at]
    for name, values in (
        ("lr_executed", [step.executed(update) * peak for update in at]),
        ("lr_intended", [step.intended(update, ratio) * peak for update in at]),
    ):
        yield Series(name, x, values, rate_unit, x_unit=unit, group="schedule")
    base = recipe.base_lr or peak
    columns = (unit.removesuffix("s"), "one device, as intended", f"{plan.devices} devices, as executed")
    rows = []
    for i in range(EPOCH_ROWS + 1):
        update = horizon * i / EPOCH_ROWS
        rows.append(
            (show(update / scale), show(step.intended(update, ratio) * base), show(step.executed(update) * peak))
        )
    yield Table(f"Learning rate by {columns[0]}", columns, rows)
