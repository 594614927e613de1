"""Does the learning rate suit what the first layer sees, and does the loss start where it should?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.checks.normalization.bench import can_standardise, standardiser
from nndiag.checks.normalization.calm import PROBE, calm_below
from nndiag.checks.normalization.cure import cure_for
from nndiag.checks.normalization.view import times
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Evidence, Judged, Measurement, Series, Severity, Skip
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.normalization.bench import Bench
    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Finding, Observation
    from nndiag.core.subject import Batch
    from nndiag.lab.firstlayer import Start

DESCENT = {"sgd", "asgd"}
SIGN_LIKE = {"adam", "adamw", "nadam", "radam", "adamax", "rmsprop", "adagrad", "lion"}
ABOVE = 2.0  # times the ceiling; below, only a loss that doubles speaks
FAR_ABOVE = 10.0
LOGITS = 10.0  # that a first sign step may move a unit
EXCESS = 1.0  # nats above ln C


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
        yield from _gradients(raw, scaled)
    yield from _flat_units(bench, view, reason)
    yield from _loss_at_start(bench, view, raw, scaled)
    yield from _ceiling(bench, view, sane=sane)


def _gradients(raw: Start, scaled: Start) -> Iterator[Series]:
    """Gradient norm per weight matrix, raw beside standardised."""
    names = [name for name in raw.gradients if name in scaled.gradients and name.endswith("weight")][:24]
    for label, one in (("raw", raw), ("standardised", scaled)):
        yield Series(
            label,
            tuple(range(len(names))),
            tuple(one.gradients[name] for name in names),
            "",
            group="gradient norm per layer at the start",
            kind="bar",
            labels=tuple(names),
        )


def _flat_units(bench: Bench, view: View, reason: str) -> Iterator[Measurement]:
    """Saturated and dead units with raw and with standardised inputs."""
    from nndiag.lab.firstlayer import with_input
    from nndiag.lab.firstlayer_units import saturated

    sides = [("", bench.batch)]
    if not reason:
        sides.append(("_standardised", with_input(bench.batch, standardiser(view.profile))))
    for suffix, batch in sides:
        for name, share in list(saturated(bench.make(training=False), batch).items())[:3]:
            yield Measurement(f"flat_units{suffix}", share, "share", name)


def _loss_at_start(bench: Bench, view: View, raw: Start, scaled: Start | None) -> Iterator[Observation]:
    """NRM105."""
    from nndiag.science.conditioning import initial_loss

    if bench.classes is None:
        yield Skip("NRM105", "for classification only")
        return
    if loaded(bench):
        yield Skip("NRM105", "the model is trained already")
        return
    if not math.isfinite(raw.loss):
        yield Skip("NRM105", "the loss at the start is not finite")
        return
    yield Judged("NRM105")
    floor = math.log(bench.classes)
    axis = 1 if raw.output.dim() == 2 else -1
    spread = float(raw.output.double().var(dim=axis, unbiased=False).mean().sqrt()) if raw.output.numel() else 0.0
    predicted = initial_loss(spread, bench.classes) if math.isfinite(spread) else math.nan
    yield Measurement("logit_spread", spread, "")
    yield Measurement("loss_predicted_from_spread", predicted, "nats")
    helped = scaled is not None and scaled.loss - floor < 0.5 * (raw.loss - floor)
    limit = floor + max(EXCESS, 0.25 * floor) * (1 if helped else 2)  # wide logits by design are common
    if raw.loss <= limit:
        return
    cause = (
        f"with standardised inputs it is {scaled.loss:.4g}"
        if helped and scaled is not None
        else "standardising the inputs does not cure it"
    )
    yield found(
        "NRM105",
        f"the loss starts at {raw.loss:.4g} where {bench.classes} equally likely classes give ln {bench.classes} = "
        f"{floor:.4g}; {cause}",
        evidence=Evidence(
            raw.loss,
            "nats",
            threshold=limit,
            n={"samples": _rows(bench.batch)},
            seed=bench.subject.run.seed,
            detail=f"logits have sd {spread:.3g}, which predicts {predicted:.4g}",
        ),
        means="the fresh model is confidently wrong: the first steps only undo that, at the price of large gradients",
        fix=cure_for(view.profile)
        if helped
        else "shrink the last layer's initial weights (nn.init.normal_(head.weight, std=0.02)) or normalise its inputs",
    )


def _rows(batch: Batch) -> int:
    from nndiag.lab.forward import batch_rows

    return batch_rows(batch)


def loaded(bench: Bench) -> bool:
    """Whether the weights are those of a trained model, as far as can be told."""
    from nndiag.lab.batchnorm import layers

    if "weights" in str(getattr(bench.subject.model, "note", "")):
        return True
    return any(
        module.num_batches_tracked is not None and int(module.num_batches_tracked) > 0
        for _, module in layers(bench.make())
    )


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
    from nndiag.lab.firstlayer import fan_in, reach, sharpness, shrunk
    from nndiag.science.conditioning import step_ceiling

    first, rate = bench.first, rate_of(bench)
    if first is None or not first.parameters or first.kind == "embedding":
        yield Skip("NRM101", can_standardise(bench) or "the first layer has no weights to train")
        return
    assert bench.objective is not None
    seed = bench.subject.run.seed
    steep = sharpness(bench.make(), bench.batch, bench.objective, first.parameters, seed=seed)
    size = math.sqrt(float((view.profile.moments.rms**2).mean()))
    if first.raw and size > LOGITS:
        calm = shrunk(bench.make(), first.parameters, size)
        later = sharpness(calm, bench.batch, bench.objective, first.parameters, seed=seed)
        steep = max(steep, later) if math.isfinite(later) else steep
    momentum = rate.momentum if rate and rate.kind in DESCENT else 0.0
    ceiling = step_ceiling(steep, momentum) if math.isfinite(steep) else math.nan
    if math.isfinite(ceiling):
        yield Measurement("first_layer_curvature", steep, "", first.name)
        yield Measurement("learning_rate_ceiling", ceiling, "", first.name)
    if rate is None or not rate.given:
        yield Skip("NRM101", "no learning rate was given (--lr)")
        return
    if rate.kind in DESCENT and math.isfinite(ceiling):
        yield Judged("NRM101")
        if rate.lr > ceiling:
            yield from _above(bench, view, rate, ceiling, sane=sane)
        return
    if rate.kind not in SIGN_LIKE:
        yield Skip(
            "NRM101",
            f"no ceiling is known for {rate.kind}" if rate.kind not in DESCENT else "the loss has no curvature here",
        )
        return
    moved = reach(first.values, first.axis, rate.lr, fan_in(bench.make(), first))
    yield Measurement("first_step_reach", moved, "", first.name)
    yield Judged("NRM101")
    if moved > LOGITS:
        yield from _above(bench, view, rate, rate.lr * LOGITS / moved, sane=sane)


def _above(bench: Bench, view: View, rate: Rate, ceiling: float, *, sane: bool) -> Iterator[Finding]:
    """The finding, when a short run at this rate grows and one below the ceiling does not.

    Where no run is allowed, arithmetic alone speaks, and only of models without normalisers: behind these the loss is
    no quadratic bowl, and its curvature at the start bounds nothing.
    """
    ratio = rate.lr / ceiling
    confirmed = calm_below(bench, rate, ceiling, jump=2.0 if sane or ratio < ABOVE else 1.05)
    if confirmed == 0 or (confirmed is None and (ratio < FAR_ABOVE or _normalised(bench))):
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
            rate.lr,
            "",
            threshold=ceiling,
            n={"samples": _rows(bench.batch), "steps": PROBE if confirmed else 0},
            seed=bench.subject.run.seed,
            detail=f"ceiling: {bound}; {run}",
        ),
        means="steps along the steepest direction of the first layer overshoot and grow"
        if rate.kind in DESCENT
        else "every step moves the first layer's units by more than their whole useful range",
        fix=f"{cure_for(view.profile)}; or take a learning rate below {safe:.2g}",
        severity=None if confirmed or not sane else Severity.WARNING,
    )


def _normalised(bench: Bench) -> bool:
    """Whether the model holds a normaliser."""
    from nndiag.lab.roles import NORMALISER, role_of_module

    return any(role_of_module(item) == NORMALISER for item in bench.make().modules())
