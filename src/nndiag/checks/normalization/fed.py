"""Does the learning rate suit what the first layer sees, and does the loss start where it should?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.checks.normalization.bench import can_standardise, rows_in, standardiser
from nndiag.checks.normalization.calm import PROBE, calm_below
from nndiag.checks.normalization.cure import cure_for
from nndiag.checks.normalization.initial import examine_start, flat_units, gradients
from nndiag.checks.normalization.view import times
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Evidence, Judged, Measurement, Severity, Skip
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.normalization.bench import Bench
    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Finding, Observation
    from nndiag.core.subject import Batch
    from nndiag.lab.firstlayer import FirstLayer, Start

DESCENT = {"sgd", "asgd"}
SIGN_LIKE = {"adam", "adamw", "nadam", "radam", "adamax", "rmsprop", "adagrad", "lion"}
ABOVE = 2.0  # times the ceiling; below, only a loss that doubles speaks
FAR_ABOVE = 10.0
SHARE = 5  # of the time left that one measurement of the curvature may take
BATCHES = 4  # that tell how sure the ceiling is
LOGITS = 10.0  # that a first sign step may move a unit


@dataclass(frozen=True)
class Rate:
    """The user's step."""

    kind: str
    lr: float
    momentum: float
    given: bool


def examine_fed(bench: Bench, view: View, *, sane: bool) -> Iterator[Observation]:
    """NRM101 and NRM105, and how the start looks raw and standardised."""
    if bench.objective is None:
        for code in ("NRM101", "NRM105"):
            yield Skip(code, f"no loss: {bench.no_loss}")
        return
    from nndiag.lab.firstlayer import start, with_input

    raw = start(bench.make(), bench.batch, bench.objective)
    reason = can_standardise(bench)
    scaled: Start | None = None
    if not reason:
        scaled = start(bench.make(), with_input(bench.batch, standardiser(view.profile)), bench.objective)
    yield Measurement("loss_at_start", raw.loss, "nats" if bench.classes else "")
    yield Measurement("gradient_norm_at_start", raw.gradient, "")
    if scaled is not None:
        yield Measurement("loss_at_start_standardised", scaled.loss, "nats" if bench.classes else "")
        yield Measurement("gradient_norm_at_start_standardised", scaled.gradient, "")
        yield from gradients(raw, scaled)
    yield from flat_units(bench, view, reason)
    yield from examine_start(bench, view, raw, scaled)
    yield from _ceiling(bench, view, sane=sane)


def rate_of(bench: Bench) -> Rate | None:
    """The user's optimizer, built to be looked at; None when it cannot be."""
    from nndiag.lab.optimizers import make_optimizer

    training = bench.subject.training
    try:
        optimizer = make_optimizer(training, bench.make())
    except NndiagError:
        return None
    group = optimizer.param_groups[0]
    given = training.lr is not None or "lr" in training.optimizer_args
    given = given or (training.optimizer is not None and not isinstance(training.optimizer, str | type))
    return Rate(type(optimizer).__name__.lower(), float(group["lr"]), float(group.get("momentum", 0.0) or 0.0), given)


def _ceiling(bench: Bench, view: View, *, sane: bool) -> Iterator[Observation]:
    """NRM101."""
    from nndiag.lab.firstlayer import fan_in, reach

    first, rate = bench.first, rate_of(bench)
    if first is None or not first.parameters or first.kind == "embedding":
        yield Skip("NRM101", can_standardise(bench) or "the first layer has no weights to train")
        return
    ceiling = _descent_ceiling(bench, view, first, rate, bench.batch)
    if math.isfinite(ceiling):
        momentum = rate.momentum if rate and rate.kind in DESCENT else 0.0
        yield Measurement("first_layer_curvature", 2 * (1 + momentum) / ceiling, "", first.name)
        yield Measurement("learning_rate_ceiling", ceiling, "", first.name)
    if rate is None or not rate.given:
        yield Skip("NRM101", "no learning rate was given (--lr)")
        return
    yield Measurement("learning_rate", rate.lr, "", rate.kind)
    if rate.kind in DESCENT and math.isfinite(ceiling):
        yield Judged("NRM101")
        if rate.lr > ceiling:
            yield from _above(bench, view, rate, ceiling, sane=sane)
        return
    if rate.kind not in SIGN_LIKE:
        yield Skip(
            "NRM101",
            f"no ceiling is known for {rate.kind}"
            if rate.kind not in DESCENT
            else "the loss has no curvature here, or the time did not suffice to measure it",
        )
        return
    moved = reach(first.values, first.axis, rate.lr, fan_in(bench.make(), first))
    yield Measurement("first_step_reach", moved, "", first.name)
    yield Judged("NRM101")
    if moved > LOGITS:
        yield from _above(bench, view, rate, rate.lr * LOGITS / moved, sane=sane)


def _descent_ceiling(bench: Bench, view: View, first: FirstLayer, rate: Rate | None, batch: Batch) -> float:
    """2 (1 + momentum) over the curvature along the first layer's weights on a batch; nan where there is none."""
    from nndiag.lab.firstlayer import sharpness, shrunk
    from nndiag.science.conditioning import step_ceiling

    assert bench.objective is not None
    seed = bench.subject.run.seed
    time = bench.subject.run.seconds_left / SHARE
    steep = sharpness(bench.make(), batch, bench.objective, first.parameters, seed=seed, seconds=time)
    size = math.sqrt(float((view.profile.moments.rms**2).mean()))
    if first.raw and size > LOGITS:
        calm = shrunk(bench.make(), first.parameters, size)
        later = sharpness(calm, batch, bench.objective, first.parameters, seed=seed, seconds=time)
        steep = max(steep, later) if math.isfinite(later) else steep
    momentum = rate.momentum if rate and rate.kind in DESCENT else 0.0
    return step_ceiling(steep, momentum) if math.isfinite(steep) else math.nan


def _between(bench: Bench, view: View, first: FirstLayer, rate: Rate, ceiling: float) -> tuple[float, float] | None:
    """The rate in units of the ceilings of several batches: the least and the greatest."""
    from nndiag.lab.firstlayer import reach
    from nndiag.lab.forward import take

    if rate.kind in DESCENT:
        others = [take(one, rows_in(bench.batch)) for one in bench.batches[1:BATCHES] if rows_in(one) > 1]
        if bench.subject.run.seconds_left < 5:
            return None
        found = [_descent_ceiling(bench, view, first, rate, batch) for batch in others]
    else:
        parts = first.values.tensor_split(BATCHES) if len(first.values) >= 2 * BATCHES else ()
        whole = reach(first.values, first.axis, 1.0, 1)
        found = [ceiling * whole / max(reach(part, first.axis, 1.0, 1), 1e-300) for part in parts]
    ratios = [rate.lr / one for one in (ceiling, *found) if math.isfinite(one) and one > 0]
    return (min(ratios), max(ratios)) if len(ratios) > 1 else None


def _above(bench: Bench, view: View, rate: Rate, ceiling: float, *, sane: bool) -> Iterator[Finding]:
    """The finding, when a short run at this rate grows and one below the ceiling does not.

    Where no run is allowed, arithmetic alone speaks, and only of models without normalisers: behind these the loss is
    no quadratic bowl, and its curvature at the start bounds nothing.
    """
    ratio = rate.lr / ceiling
    confirmed = calm_below(bench, rate, ceiling, jump=2.0 if sane or ratio < ABOVE else 1.05)
    if confirmed == 0 or (confirmed is None and (ratio < FAR_ABOVE or holds_normaliser(bench))):
        return
    first = bench.first
    assert first is not None
    bound = "2 (1 + momentum) / curvature" if rate.kind in DESCENT else f"a first step that moves a unit by {LOGITS:g}"
    safe = min(ceiling, 2 * confirmed) if confirmed else ceiling
    run = f"the loss grows at this rate and not at {confirmed:.2g}" if confirmed else "not tried (--no-train)"
    yield found(
        "NRM101",
        f"learning rate {rate.lr:g} is {times(ratio)}x above the first layer's ceiling {ceiling:.2g} for {rate.kind}",
        where=first.where,
        evidence=Evidence(
            ratio,
            "times the ceiling",
            _between(bench, view, first, rate, ceiling),
            threshold=1.0,
            n={"samples": rows_in(bench.batch), "steps": PROBE if confirmed else 0},
            seed=bench.subject.run.seed,
            detail=f"ceiling {ceiling:.3g}: {bound}; {run}; the interval is that over batches",
        ),
        means="steps along the steepest direction of the first layer overshoot and grow"
        if rate.kind in DESCENT
        else "every step moves the first layer's units by more than their whole useful range",
        fix=f"{cure_for(view.profile)}; or take a learning rate below {safe:.2g}",
        severity=None if confirmed or not sane else Severity.WARNING,
    )


def holds_normaliser(bench: Bench) -> bool:
    """Whether the model holds a normaliser."""
    from nndiag.lab.watch.roles import NORMALISER, role_of_module

    return any(role_of_module(item) == NORMALISER for item in bench.make().modules())
