"""Equal epochs on 1 and on N devices: does the declared recipe arrive where one device does?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - imported only where a model is

from nndiag.checks.multigpu_lr.plan import show
from nndiag.checks.multigpu_lr.rate import NEARLY, allowed_range
from nndiag.core.errors import NndiagError, UsageError
from nndiag.core.findings import Evidence, Judged, Measurement, Series, Severity, Skip, Step, Table
from nndiag.core.rules import found
from nndiag.lab.forward import batch_rows
from nndiag.lab.gradients import whole_batch
from nndiag.lab.optimizers import known_optimizers, make_optimizer
from nndiag.lab.shards import Devices, one_thread, pick, score, train_on
from nndiag.science.scaling import gain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.multigpu_lr.measured import Setting
    from nndiag.core.findings import Observation
    from nndiag.core.subject import Batch, Training

SEEDS = 3
STUDENT = 4.303  # two-sided 95 % for three seeds: scipy.stats.t.ppf(.975, 2)
STEPS, MOST_DEVICES, MOST_ROWS, HELD_OUT = 96, 8, 4096, 0.25
LOST = 0.05  # of what one device gained
ACCURACY = 0.01
ONE, DECLARED, DIVIDED = "1 device", "as declared", "batch divided"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to train."""

    name: str
    devices: Devices
    lr: float
    warmup: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one way ended, per seed."""

    train_loss: tuple[float, ...]
    held_loss: tuple[float, ...]
    held_accuracy: tuple[float, ...]
    curve: tuple[float, ...]  # of the first seed


def judge_training(setting: Setting, noise: float | None) -> Iterator[Observation]:
    """MGL201 and MGL010."""
    recipe, run = setting.plan.recipe, setting.subject.run
    base = recipe.base_lr or recipe.lr or setting.subject.training.lr
    reason = ""
    if base is None:
        reason = "needs base-lr (the rate on one device)"
    elif setting.subject.data is None or setting.subject.data.synthetic:
        reason = "invented data teach nothing: give --data"
    elif (recipe.devices or 1) < 2:
        reason = "needs gpus, two or more"
    if reason or base is None:
        yield from _skipped(reason)
        return
    per = int(recipe.per_device_batch or 8)
    wanted = min(MOST_ROWS, max(256, int(STEPS * per / (1 - HELD_OUT))))
    rows = whole_batch(setting.subject.data, wanted, run.device) if setting.subject.data else None
    if rows is None or batch_rows(rows) < 64:
        yield from _skipped("fewer than 64 samples: too few to train and to hold some out")
        return
    variants, passes = _variants(setting, base, noise, batch_rows(rows))
    outcomes: dict[str, Outcome] = {}
    for i, variant in enumerate(variants):
        yield Step(f"training: {variant.name}", i / len(variants))
        if run.seconds_left <= 0:
            break
        try:
            outcomes[variant.name] = _train(setting, variant, rows, passes)
        except (NndiagError, UsageError) as failed:
            yield from _skipped(f"training failed: {failed.message}")
            return
    yield from _tell(setting, variants, outcomes, rows)


def _skipped(reason: str) -> Iterator[Observation]:
    for code in ("MGL201", "MGL010"):
        yield Skip(code, reason)


def _variants(setting: Setting, base: float, noise: float | None, rows: int) -> tuple[list[Variant], int]:
    """Return the ways to train, the judged ones first, and the passes over the training rows."""
    recipe = setting.plan.recipe
    W = min(recipe.devices or 2, MOST_DEVICES)
    training_rows = int(rows * (1 - HELD_OUT))
    per = max(W, min(int(recipe.per_device_batch or 8), training_rows // (2 * W)))
    per -= per % W  # so that it can be dealt out again
    one, many = Devices(1, per), Devices(W, per)
    passes = max(1, math.ceil(STEPS * per / training_rows))
    updates = passes * (training_rows // many.batch)
    warmup = max(1, updates // 5)
    ratio = setting.plan.rate_ratio
    k = setting.plan.k
    declared_k = W ** (math.log(ratio) / math.log(k)) if ratio and k and k > 1 else ratio or 1.0  # as the rule scales
    warms = bool(recipe.schedule and (recipe.schedule.warmup_steps or recipe.schedule.warmup_ratio))
    variants = [
        Variant(ONE, one, base),
        Variant(DECLARED, many, base * declared_k, warmup if warms else 0),
        Variant("lr unchanged", many, base),
        Variant("linear", many, base * W),
        Variant("linear, warm-up", many, base * W, warmup),
        Variant("square root", many, base * math.sqrt(W)),
        Variant("summed gradients", Devices(W, per, average=False), base),
        Variant(DIVIDED, Devices(W, per // W), base),
    ]
    if noise is not None and math.isfinite(noise):
        variants.append(Variant("gain", many, base * gain(W, noise, per)))
    return variants, passes


def _train(setting: Setting, variant: Variant, rows: Batch, passes: int) -> Outcome:
    source: Any = setting.subject.model
    total = batch_rows(rows)
    held = pick(rows, torch.arange(int(total * (1 - HELD_OUT)), total))
    count = total - batch_rows(held)
    seen = pick(rows, torch.arange(min(count, 1024)))
    results = []
    with setting.alone(), one_thread(source.make()):
        for seed in range(SEEDS):
            generator = torch.Generator().manual_seed(setting.subject.run.seed * 1000 + seed)
            order = [int(i) for _ in range(passes) for i in torch.randperm(count, generator=generator)]
            model = source.make()
            optimizer = make_optimizer(_training(setting), model, lr=variant.lr)
            losses = train_on(
                model, rows, order, setting.objective, optimizer, variant.devices, warmup=variant.warmup, seed=seed
            )
            results.append((score(model, seen, setting.objective)[0], *score(model, held, setting.objective), losses))
    return Outcome(
        tuple(item[0] for item in results),
        tuple(item[1] for item in results),
        tuple(item[2] for item in results if item[2] is not None),
        tuple(results[0][3]),
    )


def _training(setting: Setting) -> Training:
    """Return how the user trains, with the recipe's optimizer where the command line names none."""
    training, name = setting.subject.training, setting.plan.recipe.optimizer
    if training.optimizer is None and name in known_optimizers():
        args: dict[str, Any] = {"momentum": setting.plan.recipe.momentum} if setting.plan.recipe.momentum else {}
        return replace(training, optimizer=name, optimizer_args={**args, **training.optimizer_args})
    return training


def _tell(
    setting: Setting, variants: list[Variant], outcomes: dict[str, Outcome], rows: Batch
) -> Iterator[Observation]:
    from nndiag.checks.multigpu_lr.measured import out_of_time

    if ONE not in outcomes or DECLARED not in outcomes:
        yield from out_of_time("MGL201", "MGL010")
        return
    table = []
    for variant in variants:
        outcome = outcomes.get(variant.name)
        if outcome is None:
            continue
        table.append(
            (
                variant.name,
                show(variant.devices.batch),
                show(variant.lr),
                _spread(outcome.train_loss),
                _spread(outcome.held_loss),
                _spread(outcome.held_accuracy) if outcome.held_accuracy else None,
            )
        )
        x = [(step + 1) * variant.devices.batch for step in range(len(outcome.curve))]
        yield Series(f"loss: {variant.name}", x, outcome.curve, "loss", x_unit="samples", group="scaled-training")
        yield Measurement("held_out_loss", fmean(outcome.held_loss), "loss", where=variant.name)
    columns = ("run", "batch", "lr", "train loss", "held-out loss", "accuracy")
    yield Table(f"Equal epochs, {SEEDS} seeds (mean ± sd)", columns, table)
    if DIVIDED in outcomes:
        gap = max(abs(a - b) for a, b in zip(outcomes[ONE].held_loss, outcomes[DIVIDED].held_loss, strict=True))
        yield Measurement("divided_batch_difference", gap, "loss")
    start = score(setting.subject.model.make(), rows, setting.objective)[0] if setting.subject.model else 0.0
    yield from _scaled_run(setting, outcomes[ONE], outcomes[DECLARED], start)
    yield from _two_scales(outcomes[ONE], outcomes[DECLARED], start)


def _spread(values: tuple[float, ...]) -> str:
    return f"{fmean(values):.4g} ± {stdev(values):.2g}" if len(values) > 1 else f"{values[0]:.4g}"


def _difference(one: tuple[float, ...], many: tuple[float, ...]) -> tuple[float, float]:
    """Return mean of paired differences and half its 95 % interval."""
    gaps = [b - a for a, b in zip(one, many, strict=True)]
    return fmean(gaps), STUDENT * stdev(gaps) / math.sqrt(len(gaps))


def _scaled_run(setting: Setting, one: Outcome, many: Outcome, start: float) -> Iterator[Observation]:
    gap, half = _difference(one.held_loss, many.held_loss)
    gained = start - fmean(one.held_loss)
    yield Judged("MGL201")
    broken = not math.isfinite(gap)
    if not broken and (abs(gap) <= half or gap <= LOST * max(gained, 0.0) or gained <= 0):
        return
    share = gap / gained if gained > 0 and not broken else math.inf
    accuracy = ""
    if one.held_accuracy and many.held_accuracy:
        accuracy = f", accuracy {fmean(one.held_accuracy):.1%} → {fmean(many.held_accuracy):.1%}"
    ruled = not broken and _follows_a_rule(setting)
    ended = "diverges" if broken else f"ends at {fmean(many.held_loss):.4g}"
    yield found(
        "MGL201",
        f"after equal epochs the declared recipe {ended} where one device ends at {fmean(one.held_loss):.4g} "
        f"(held-out loss{accuracy})",
        where=setting.plan.where("lr"),
        evidence=Evidence(
            value=share if math.isfinite(share) else None,
            interval=((gap - half) / gained, (gap + half) / gained) if gained > 0 and not broken else None,
            threshold=LOST,
            unit="of one device's gain",
            n={"seeds": SEEDS},
            seed=setting.subject.run.seed,
            detail="paired over data orders, same held-out samples",
        ),
        means="the rate follows a usual rule; so short a training, mostly warm-up, favours many small updates, and the "
        "gap may close later"
        if ruled
        else "N devices do not reproduce one: fewer updates, each with the wrong size",
        fix="take the run of the table that comes closest to one device: linear with warm-up (SGD), square root (Adam) "
        "or the gain",
        severity=Severity.NOTE if ruled else None,
    )


def _follows_a_rule(setting: Setting) -> bool:
    """Whether the declared rate is one that MGL001 has nothing to say about."""
    k, ratio = setting.plan.k, setting.plan.rate_ratio
    if k is None or ratio is None:
        return False
    low, high = allowed_range(setting.plan, k)
    return low / NEARLY <= ratio <= high * NEARLY


def _two_scales(one: Outcome, many: Outcome, start: float) -> Iterator[Observation]:
    """MGL010: what the training loss says and what the held-out accuracy says."""
    if not one.held_accuracy or not many.held_accuracy:
        yield Skip("MGL010", "needs class ids: accuracy is not defined here")
        return
    yield Judged("MGL010")
    loss, loss_half = _difference(one.train_loss, many.train_loss)
    points, points_half = _difference(one.held_accuracy, many.held_accuracy)
    gained = start - fmean(one.train_loss)
    if not math.isfinite(loss) or gained <= 0:
        return
    relative = loss / gained  # of the loss itself, a change from .002 to .001 would count as half
    loss_tells = abs(loss) > loss_half and abs(relative) > 4 * LOST
    points_tell = abs(points) > points_half and abs(points) > ACCURACY
    if loss_tells == points_tell and (not loss_tells or (loss > 0) == (points < 0)):
        return
    if points_tell and not loss_tells and abs(relative) > LOST:
        return  # both move, one of them within its spread
    yield found(
        "MGL010",
        f"N devices move the training loss {fmean(one.train_loss):.3g} → {fmean(many.train_loss):.3g} "
        f"({relative:+.0%} of "
        f"what one device gained) and the held-out accuracy by {100 * points:+.1f} points",
        evidence=Evidence(
            value=relative,
            interval=((loss - loss_half) / gained, (loss + loss_half) / gained),
            threshold=4 * LOST,
            unit="of one device's gain",
            n={"seeds": SEEDS},
            detail="training loss on training samples, accuracy on held-out samples",
        ),
        means="the two are measured on different data: a loss on training samples cannot be read against an accuracy "
        "on others",
        fix="log loss and accuracy on the same held-out samples, at equal epochs",
    )
