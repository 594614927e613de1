"""The recipe on one page: batches, updates and rate before and after, and the answer in a sentence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nndiag.checks.multigpu_lr.plan import show, times
from nndiag.core.findings import Answer, Fact, Measurement, Scalar, Series, Table
from nndiag.science import scaling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.multigpu_lr.plan import Plan
    from nndiag.core.findings import Finding, Observation

BATCHES = 25  # points of the rate-against-batch curve


def facts(plan: Plan) -> Iterator[Observation]:
    """What the recipe is, and what of it was concluded rather than said."""
    recipe = plan.recipe
    if recipe.sources:
        yield Fact("recipe", ", ".join(recipe.sources), ", ".join(recipe.sources))
    if recipe.framework:
        yield Fact("framework", recipe.framework, recipe.framework)
    if recipe.devices:
        yield Fact("devices", recipe.devices, f"{recipe.devices} device{'s' if recipe.devices > 1 else ''}")
    if recipe.global_batch:
        yield Fact("global_batch", recipe.global_batch, f"global batch {show(recipe.global_batch)}")
    if recipe.per_device_batch:
        yield Fact("per_device_batch", recipe.per_device_batch, "")
    if recipe.optimizer:
        yield Fact("optimizer", recipe.optimizer, recipe.optimizer)
    for key, how in sorted(recipe.deduced.items()):
        yield Fact(f"deduced_{key}", how, f"{key.replace('_', '-')} deduced" if key == "base_batch" else "")


def before_after(plan: Plan, findings: list[Finding]) -> Iterator[Observation]:
    """The main table: one row per quantity."""
    recipe = plan.recipe
    state: dict[str, str] = {}
    for item in findings:
        code = item.rule.code
        state[code] = min(state.get(code, "note"), item.severity.word, key=("error", "warning", "note").index)
    base = recipe.base_batch
    epoch = _epoch_cells(plan)
    schedule = recipe.schedule
    warmup = schedule.warmup_steps if schedule else None
    if schedule and schedule.warmup_ratio and not warmup:
        warmup = math.ceil(schedule.warmup_ratio * plan.updates) if plan.updates else None
    rows: list[tuple[str, Scalar, Scalar, str]] = [
        ("devices", 1, recipe.devices, "ok"),
        ("per-device batch", None, recipe.per_device_batch, state.get("MGL009", "ok")),
        ("accumulation", None, recipe.accumulation, "ok"),
        ("samples per update", base, recipe.global_batch, state.get("MGL007", "ok")),
        ("learning rate", _cell(recipe.base_lr), _cell(recipe.lr), state.get("MGL001", state.get("MGL005", "ok"))),
        ("updates per epoch", *epoch, "ok"),
        ("updates", *_updates_cells(plan), "ok"),
        ("warm-up updates", None, _cell(warmup), state.get("MGL002", "ok")),
        ("schedule", None, schedule.name if schedule else None, _worst(state, "MGL003", "MGL004")),
    ]
    kept = [row for row in rows if row[1] is not None or row[2] is not None or row[3] != "ok"]
    if kept:
        yield Table("Recipe", ("quantity", "one device", "now", "status"), kept, main=True)
    if recipe.global_batch:
        yield Measurement("global_batch", recipe.global_batch, "samples")
    if plan.updates_per_epoch:
        yield Measurement("updates_per_epoch", plan.updates_per_epoch, "updates")
    if plan.updates:
        yield Measurement("updates", plan.updates, "updates")


def _worst(state: dict[str, str], *codes: str) -> str:
    words = [state[code] for code in codes if code in state]
    return min(words, key=("error", "warning", "note").index) if words else "ok"


def _cell(value: float | None) -> str | None:
    return None if value is None else show(value)


def _epoch_cells(plan: Plan) -> tuple[str | None, str | None]:
    recipe = plan.recipe
    if not recipe.dataset_size:
        return None, None
    drop = bool(recipe.drop_last)
    cells = [
        show(scaling.steps_per_epoch(recipe.dataset_size, batch, drop_last=drop)) if batch else None
        for batch in (recipe.base_batch, recipe.global_batch)
    ]
    return cells[0], cells[1]


def _updates_cells(plan: Plan) -> tuple[str | None, str | None]:
    recipe = plan.recipe
    if recipe.updates or not (recipe.dataset_size and recipe.epochs):
        now, k = plan.updates, plan.k
        return (show(round(now * k)) if now and k else None), show(round(now)) if now else None
    counts = [
        math.ceil(recipe.epochs * scaling.steps_per_epoch(recipe.dataset_size, batch, drop_last=bool(recipe.drop_last)))
        if batch
        else None
        for batch in (recipe.base_batch, recipe.global_batch)
    ]
    return _cell(counts[0]), _cell(counts[1])


def rate_against_batch(plan: Plan, noise: float | None = None) -> Iterator[Observation]:
    """The rates that each rule asks for, against the batch."""
    recipe = plan.recipe
    if not recipe.base_lr or not recipe.base_batch:
        return
    span = max(64.0, 2 * (plan.k or 1.0))
    ratios = [span ** (i / (BATCHES - 1)) for i in range(BATCHES)]
    x = [recipe.base_batch * k for k in ratios]
    rules = {
        "linear": [scaling.linear(recipe.base_lr, k) for k in ratios],
        "square root": [scaling.square_root(recipe.base_lr, k) for k in ratios],
    }
    if noise is not None:
        rules["gain"] = [recipe.base_lr * scaling.gain(k, noise, recipe.base_batch) for k in ratios]
    for name, y in rules.items():
        yield Series(f"lr_{name.replace(' ', '_')}", x, y, "lr", x_unit="samples per update", group="lr-against-batch")
    if recipe.lr and recipe.global_batch:
        yield Series("lr_now", [recipe.global_batch], [recipe.lr], "lr", x_unit="samples per update",
                     group="lr-against-batch")  # fmt: skip


def answer(plan: Plan, findings: list[Finding], factor: float | None = None) -> Answer:
    """Say in one sentence what changed, with its numbers."""
    parts = [*_batch_words(plan), *_lr_words(plan)]
    if factor is not None:
        same = abs(factor - 1) < 0.01
        parts.append("the aggregated gradient is the whole batch's" if same else f"the gradient is {times(factor)}")
    parts += [item.message for item in findings if item.rule.code in ("MGL003", "MGL004")][:1]
    other = [item for item in findings if item.rule.code not in ("MGL001", "MGL003", "MGL004")]
    worst = sorted(other, key=lambda item: -item.severity)[:1]
    parts += [item.message for item in worst]
    if not findings and parts:
        parts.append("nothing that was judged changed the recipe")
    return Answer("; ".join(parts) or "too little is declared to compare the recipe with one device's")


def _batch_words(plan: Plan) -> Iterator[str]:
    recipe, k = plan.recipe, plan.k
    several = plan.devices > 1
    if recipe.framework == "easgd":
        yield (
            f"elastic averaging has no global batch: the learning rate is per worker, not multiplied by {plan.devices}"
        )
    elif k and recipe.devices:
        verb = "multiply" if k > 1 else "keep" if k == 1 else "shrink"
        verb = verb if several else {"multiply": "multiplies"}.get(verb, f"{verb}s")
        noun = f"{recipe.devices} devices" if several else "1 device"
        noun += " with its accumulation" if recipe.accumulation > 1 and not several else ""
        grown = f"{show(recipe.base_batch or 0)} → {show(recipe.global_batch or 0)} ({times(k)})"
        yield f"{noun} {verb} the batch {grown}"
    elif k:
        yield f"the batch goes {show(recipe.base_batch or 0)} → {show(recipe.global_batch or 0)} ({times(k)})"
    elif recipe.global_batch:
        yield f"the global batch is {show(recipe.global_batch)}"


def _lr_words(plan: Plan) -> Iterator[str]:
    recipe, k, ratio = plan.recipe, plan.k, plan.rate_ratio
    if k and recipe.base_lr:
        rules = f"linear would be {show(recipe.base_lr * k)}, square root {show(recipe.base_lr * k**0.5)}"
        if ratio is None:
            yield rules
        elif abs(ratio - 1) < 0.05:
            yield f"lr {show(recipe.lr or 0)} is unchanged" + (f": {rules}" if abs(k - 1) > 0.05 else "")
        else:
            yield f"lr goes {show(recipe.base_lr)} → {show(recipe.lr or 0)} ({times(ratio)}; {rules})"
    elif k and recipe.lr and abs(k - 1) > 0.05 and not plan.rate_free:
        yield (
            f"whether lr {show(recipe.lr)} follows it needs base-lr, the rate tuned at {show(recipe.base_batch or 0)}: "
            f"linear is {times(k)}, square root {times(k**0.5)}"
        )
