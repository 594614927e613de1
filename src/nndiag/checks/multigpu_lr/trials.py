"""Which ways of training on one and on N devices are worth trying, at what batches and rates?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nndiag.lab.shards import Devices
from nndiag.science.scaling import gain

if TYPE_CHECKING:
    from nndiag.checks.multigpu_lr.plan import Plan

SEEDS = 3
STEPS, MOST_DEVICES, HELD_OUT, DEFAULT_BATCH = 96, 8, 0.25, 8
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


def variants_of(plan: Plan, base: float, noise: float | None, rows: int) -> tuple[list[Variant], int]:
    """Return the ways to train, the judged ones first, and the passes over the training rows."""
    one, many, k = devices_of(plan, int(rows * (1 - HELD_OUT)))
    passes = max(1, math.ceil(STEPS * one.batch / (rows * (1 - HELD_OUT))))
    updates = passes * (int(rows * (1 - HELD_OUT)) // many.batch)
    warmup = max(1, updates // 5)
    recipe, ratio, whole_k = plan.recipe, plan.rate_ratio, plan.k
    declared = k ** (math.log(ratio) / math.log(whole_k)) if ratio and whole_k and whole_k > 1 else ratio or 1.0
    warms = bool(recipe.schedule and (recipe.schedule.warmup_steps or recipe.schedule.warmup_ratio))
    variants = [
        Variant(ONE, one, base),
        Variant(DECLARED, many, base * declared, warmup if warms else 0),
        Variant("lr unchanged", many, base),
        Variant("linear", many, base * k),
        Variant("linear, warm-up", many, base * k, warmup),
        Variant("square root", many, base * math.sqrt(k)),
        Variant("summed gradients", replace(many, average=False), base),
        Variant(DIVIDED, Devices(many.count, one.batch // many.count), base),
    ]
    if noise is not None and math.isfinite(noise):
        variants.append(Variant("gain", many, base * gain(k, noise, one.batch)))
    return variants, passes


def devices_of(plan: Plan, rows: int) -> tuple[Devices, Devices, float]:
    """Return one device with the base batch, N with the global one, and the ratio of their batches.

    Where the data are too few for that ratio at the base batch, a smaller base batch keeps the ratio; where they are
    too few for the ratio itself, the ratio is smaller.
    """
    recipe = plan.recipe
    W = min(recipe.devices or 2, MOST_DEVICES)
    most = max(W, rows // 2)
    k = min(plan.k or float(W), most / W)
    base = recipe.base_batch or recipe.per_device_batch or DEFAULT_BATCH
    base = max(W, min(int(base), int(most / k)))
    base -= base % W  # so that it can be dealt out again
    per = max(1, round(base * k / W))
    return Devices(1, base), Devices(W, per), W * per / base
