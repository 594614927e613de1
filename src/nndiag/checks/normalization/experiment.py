"""What does normalising change for this model? The same start, trained on raw and on standardised inputs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nndiag.checks.normalization.bench import can_standardise, standardiser
from nndiag.checks.normalization.cure import cure_for
from nndiag.checks.normalization.exchange import examine_exchange
from nndiag.checks.normalization.fed import holds_normaliser, rate_of
from nndiag.checks.normalization.initial import constant_loss, loaded
from nndiag.checks.normalization.trial import Trial, changed, even, ratio_interval, trial
from nndiag.core.findings import Evidence, Fact, Judged, Measurement, Series, Severity, Skip, Step
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from nndiag.checks.normalization.bench import Bench
    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Finding, Observation
    from nndiag.core.subject import Batch
    from nndiag.lab.scale import Seen

GRID = (0.1, 1.0, 10.0)  # times the user's learning rate
LEARNED = 0.8  # of the loss that knows only the targets' distribution
WORSE, NOTED = 1.5, 1.2  # ratio of the losses reached
FEWEST = 20  # steps, unless fewer were asked for, before a run that does not diverge says anything
WORTH = 0.05  # of the prior loss: differences below are nothing
CAUSES = frozenset({"NRM001", "NRM002", "NRM003", "NRM011"})


def examine_training(
    bench: Bench, seen: Seen, view: View, alarms: Mapping[str, Finding], steps: int
) -> Iterator[Observation]:
    """NRM201, and what happens when one scale is trained and the other served."""
    why = _why_not(bench, seen)
    if why:
        yield Skip("NRM201", why)
        return
    rate = rate_of(bench)
    prior = _prior(bench, seen)
    alone = prior is None and seen.targets is None
    if rate is None or (prior is None and not alone):
        yield Skip(
            "NRM201", "no optimizer could be made" if rate is None else "the prior loss of these targets is not known"
        )
        return
    if not alarms.keys() & CAUSES and _standard_already(view):
        yield Judged("NRM201")
        yield Fact("normalising", "no difference", "the inputs are standardised already")
        return
    yield Step("training on raw and on standardised inputs")
    aims = _target_scale(bench, seen) if "NRM011" in alarms else None
    scaled = standardiser(view.profile)
    std_batches = tuple(changed(batch, scaled, aims) for batch in bench.batches)
    prior = prior if prior is not None else 1.0
    std_prior = 1.0 if aims is not None else prior
    raw, std = _runs(bench, std_batches, rate.lr, steps, (prior, std_prior))
    if not raw:
        yield Skip("NRM201", "the time budget did not allow it")
        yield found(
            "NND902",
            f"the time budget of {bench.subject.run.max_seconds:g} s ended before micro-training",
            means="NRM201 was not judged",
            fix="raise --max-seconds",
        )
        return
    yield Judged("NRM201")
    if len(raw) < len(GRID):
        yield found(
            "NND902",
            f"the time budget of {bench.subject.run.max_seconds:g} s allowed {len(raw)} of {len(GRID)} learning rates",
            means="NRM201 compares fewer rates than it would: each input's best one may not be among them",
            fix="raise --max-seconds",
        )
    unit = "the prior loss"
    if alone:
        unit = "its loss at the start"
        raw, std = (_by_start(runs) for runs in (raw, std))
        if not raw or not std:
            yield Fact("normalising", "not told", "the loss has no scale to measure progress by")
            return
    yield from _curves(raw[0], std[0], unit)
    yield from _verdict(bench, view, (raw, std), alarms, given=rate.given, unit=unit, shared=alone)
    yield from examine_exchange(bench, view, rate.lr, steps)


def _runs(
    bench: Bench, standardised: tuple[Batch, ...], lr: float, steps: int, priors: tuple[float, float]
) -> tuple[list[Trial], list[Trial]]:
    """Pairs of runs on raw and on standardised inputs: at the user's rate first, then at those around it."""
    raw, std = [], []
    for number, factor in enumerate(sorted(GRID, key=lambda item: item != 1.0)):
        left = bench.subject.run.seconds_left
        if left < 3 or (number and left < 0.25 * bench.subject.run.max_seconds):
            break
        budget = left / 3
        pair = even(
            trial(bench, bench.batches, lr=lr * factor, steps=steps, prior=priors[0], seconds=budget),
            trial(bench, standardised, lr=lr * factor, steps=steps, prior=priors[1], seconds=budget),
        )
        if not any(run.curve.diverged for run in pair) and pair[0].curve.steps < min(FEWEST, steps):
            break  # how far a handful of steps comes tells the machine's speed, not what the model learns
        raw.append(pair[0])
        std.append(pair[1])
    return raw, std


def _standard_already(view: View) -> bool:
    """Whether standardising would hardly move a number."""
    moments = view.profile.moments
    varying = moments.sd > 0
    mean, sd = abs(moments.mean[varying]), moments.sd[varying]
    return bool(varying.any() and (mean < 0.3).all() and (sd > 0.7).all() and (sd < 1.4).all())


def _why_not(bench: Bench, seen: Seen) -> str:  # noqa: PLR0911 - one line for each reason
    run = bench.subject.run
    if run.train is False:
        return "micro-training is off (--no-train)"
    if not run.wants("NRM201"):
        return "not selected"
    if bench.objective is None:
        return f"no loss: {bench.no_loss}"
    if seen.targets is None and bench.objective.name != "own" and not callable(bench.subject.training.loss):
        return "the data has no targets"
    if bench.subject.data is not None and bench.subject.data.synthetic:
        return "the inputs are invented"
    if loaded(bench):
        return "the model is trained already"
    return can_standardise(bench)


def _prior(bench: Bench, seen: Seen) -> float | None:
    """The loss of predicting the targets' distribution alone."""
    assert bench.objective is not None
    targets = seen.targets
    if targets is None:
        return None
    if bench.classes is not None and targets.counts:
        total = sum(targets.counts)
        entropy = -sum(count / total * math.log(count / total) for count in targets.counts if count)
        return entropy if entropy > 0 else None
    if bench.objective.name == "mse":
        variance = float(targets.moments.variance.mean())
        return variance if variance > 0 else None
    if bench.objective.name == "bce" and targets.counts:
        total = sum(targets.counts)
        entropy = -sum(count / total * math.log(count / total) for count in targets.counts if count)
        return entropy if entropy > 0 else None
    return constant_loss(bench)


def _target_scale(bench: Bench, seen: Seen) -> Callable[[Any], Any] | None:
    """The map that standardises real-valued targets."""
    if bench.objective is None or bench.objective.name != "mse" or seen.targets is None:
        return None
    mean, sd = float(seen.targets.moments.mean[0]), float(seen.targets.moments.sd[0])
    return lambda y: (y - mean) / sd if sd > 0 else y


def _by_start(runs: list[Trial]) -> list[Trial]:
    """The runs in units of the loss that each started with: where no targets tell a prior, it knows nothing yet.

    Empty where a loss starts at or below zero: then it has no natural zero, and no share of it means anything.
    """
    starts = [run.curve.losses[0] for run in runs]
    if any(start <= 0 or min(run.curve.losses) < 0 for start, run in zip(starts, runs, strict=True)):
        return []
    return [replace(run, prior=start if math.isfinite(start) else 1.0) for start, run in zip(starts, runs, strict=True)]


def _curves(raw: Trial, std: Trial, unit: str) -> Iterator[Observation]:
    for label, one in (("raw", raw), ("standardised", std)):
        losses = tuple(loss / one.prior for loss in one.curve.losses)
        yield Series(
            label,
            tuple(range(len(losses))),
            losses,
            f"of {unit}",
            x_unit="steps",
            group="training",
            threshold=1.0,
        )
        norms = one.curve.grad_norms
        yield Series(f"{label} gradient", tuple(range(len(norms))), norms, "", x_unit="steps", group="gradient norm")
        yield Measurement(f"loss_reached_{label}", one.reached, f"of {unit}")


def _verdict(  # noqa: PLR0913 - both sides, and what is known of them
    bench: Bench,
    view: View,
    runs: tuple[list[Trial], list[Trial]],
    alarms: Mapping[str, Finding],
    *,
    given: bool,
    unit: str,
    shared: bool,
) -> Iterator[Observation]:
    """NRM201, as loud as the difference is large.

    Where each run is measured by its own start (`shared`), the two are compared in one unit as well, and only what
    both ways of measuring show is said: a loss may be the same at any scale of the inputs, or go with it.
    """
    raw, std = runs
    own, other = raw[0], std[0]
    best, best_other = min(raw, key=lambda t: t.reached), min(std, key=lambda t: t.reached)
    yield Measurement("best_loss_raw", best.reached, f"of {unit}", f"lr {best.lr:g}")
    yield Measurement("best_loss_standardised", best_other.reached, f"of {unit}", f"lr {best_other.lr:g}")
    level, pair = _level(raw, std, given=given)
    if shared:
        again, _ = _level([replace(run, prior=std[0].prior) for run in raw], std, given=given)
        if (level is None) != (again is None):
            said = "whether normalising helps depends on how the loss, which has no targets, is measured"
            yield Fact("normalising", "not told", said)
            return
        level = None if level is None or again is None else min(level, again)
    if level is None:
        if best.broken and not holds_normaliser(bench):  # where nothing learns, nothing is shown
            said = f"in {own.curve.steps} steps neither raw nor standardised inputs were learned from"
            yield Fact("normalising", "not told", f"{said}: what normalising changes is not told")
        else:
            yield Fact("normalising", "no difference", "normalising changes nothing measurable for this model")
        return
    causes = [alarms[code] for code in sorted(alarms.keys() & CAUSES)]
    level = level if causes else Severity.NOTE
    slow, fast = pair
    words = "diverge" if slow.curve.diverged else f"reach {slow.reached:.3g} of {unit}"
    rates = f"at lr {slow.lr:g}" if slow.lr == fast.lr else f"at their best lr {slow.lr:g}"
    there = "" if slow.lr == fast.lr else f" at lr {fast.lr:g}"
    both = " (and targets)" if "NRM011" in alarms else ""
    sooner = _steps_to(fast, slow)
    yield found(
        "NRM201",
        f"in {slow.curve.steps} steps {rates} raw inputs {words}, standardised ones{both} {fast.reached:.3g}{there}"
        + (f" (they pass the raw result after {sooner} steps)" if sooner else ""),
        evidence=Evidence(
            slow.reached / max(fast.reached, 1e-12) if math.isfinite(slow.reached) else math.inf,
            "times the loss",
            ratio_interval(slow, fast),
            threshold=NOTED,
            n={"steps": slow.curve.steps, "samples": bench.rows, "learning rates": len(raw)},
            seed=bench.subject.run.seed,
            detail=f"at lr {own.lr:g}: raw {own.reached:.3g}, standardised {other.reached:.3g}; each at its best: raw "
            f"{best.reached:.3g} (lr {best.lr:g}), standardised {best_other.reached:.3g} (lr {best_other.lr:g})",
        ),
        where=causes[0].where if causes else None,
        means="same start, optimizer and order of batches: standardising the inputs"
        + (" and the targets makes the difference" if both else " alone makes the difference")
        + "".join(f"; {cause.rule.code} names the cause: {cause.message}" for cause in causes[:1]),
        fix=cure_for(view.profile),
        severity=level,
    )


def _level(raw: list[Trial], std: list[Trial], *, given: bool) -> tuple[Severity | None, tuple[Trial, Trial]]:
    """How loud, and which pair of runs shows it: at the user's rate, or each at its best."""
    own, other = raw[0], std[0]
    best, best_other = min(raw, key=lambda t: t.reached), min(std, key=lambda t: t.reached)
    if own.broken and other.reached < LEARNED:
        lasting = best.broken or _far(best, best_other, WORSE)
        return (Severity.ERROR if given or lasting else Severity.WARNING), (own, other)
    if given and _far(own, other, WORSE):
        return Severity.WARNING, (own, other)
    if _far(best, best_other, WORSE):
        return Severity.WARNING, (best, best_other)
    if _far(own, other, NOTED) and not _far(other, own, NOTED):
        return Severity.NOTE, (own, other)
    return None, (own, other)


def _far(slow: Trial, fast: Trial, ratio: float) -> bool:
    """Whether one run ends worth-while above the other."""
    return slow.reached > ratio * fast.reached and not slow.reached - fast.reached <= WORTH


def _steps_to(fast: Trial, slow: Trial) -> int:
    """After how many steps the faster run is where the slower one ends; 0 when it never is."""
    if not math.isfinite(slow.reached) or not fast.curve.losses:
        return 0
    scale = fast.reached / (sum(fast.curve.losses[-3:]) / len(fast.curve.losses[-3:]) or 1.0)
    return next((k for k, loss in enumerate(fast.curve.losses) if loss * scale <= slow.reached), 0)
