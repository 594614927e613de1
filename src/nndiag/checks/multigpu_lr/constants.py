"""What do the constants counted in updates mean after the batch has grown?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nndiag.checks.multigpu_lr.plan import show, times
from nndiag.checks.multigpu_lr.square_root import TORCH_BETAS
from nndiag.core.findings import Evidence, Judged, Measurement, Scalar, Skip, Table
from nndiag.core.rules import found
from nndiag.science import scaling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.multigpu_lr.plan import Plan
    from nndiag.core.findings import Observation

CLOSE = 1.25  # a horizon within a quarter of the old one was rescaled
MOVED = 1.5  # batches closer than this leave the constants what they were


def judge_constants(plan: Plan) -> Iterator[Observation]:
    """MGL006: weight averages, Adam's betas and intervals, in samples before and after."""
    recipe, k = plan.recipe, plan.k
    if k is None:
        yield Skip("MGL006", "needs base-batch and the global batch")
        return
    judged = False
    for part in (_ema(plan, k), _betas(plan, k), _intervals(plan, k)):
        for item in part:
            judged = True
            yield item
    if not judged:
        said = "ema-decay" if recipe.ema_decay else "base-ema-decay" if recipe.base_ema_decay else ""
        other = {
            "ema-decay": "base-ema-decay",
            "base-ema-decay": "ema-decay",
            "": "base-ema-decay with ema-decay, base-betas, or base-intervals",
        }
        yield Skip("MGL006", f"needs {other[said]}: what a constant was before the batch grew")


def _ema(plan: Plan, k: float) -> Iterator[Observation]:
    recipe = plan.recipe
    if recipe.ema_decay is None or recipe.base_ema_decay is None:
        return
    yield Judged("MGL006")
    want = scaling.scaled_ema(recipe.base_ema_decay, k)
    stretch = math.log(want) / math.log(recipe.ema_decay)  # horizon in samples, after over before
    yield Measurement("ema_horizon_ratio", stretch, "ratio")
    if 1 / CLOSE < stretch < CLOSE or (1 / MOVED < k < MOVED and abs(recipe.ema_decay - recipe.base_ema_decay) < 1e-12):
        return
    before = scaling.horizon(recipe.base_ema_decay, recipe.base_batch or 1)
    after = scaling.horizon(recipe.ema_decay, recipe.global_batch or 1)
    yield found(
        "MGL006",
        f"the weight average of decay {recipe.ema_decay:g} reaches {_span(plan, after)} back instead of "
        f"{_span(plan, before)} ({times(stretch)})",
        where=plan.where("ema-decay"),
        evidence=Evidence(value=stretch, threshold=CLOSE, unit="ratio", detail="horizon in samples, after over before"),
        means="a decay per update averages over more samples when an update holds more: the average lags behind",
        fix=f"ema-decay = {want:.6g} (ρ^k, Busbridge et al. 2023)",
    )


def _betas(plan: Plan, k: float) -> Iterator[Observation]:
    recipe = plan.recipe
    if recipe.base_betas is None or recipe.rule in ("none", "linear") or plan.adaptive is False:
        return
    now = recipe.betas or (TORCH_BETAS if plan.adaptive else None)
    if now is None:
        return
    want = scaling.adam_square_root(1.0, k, recipe.base_betas)
    if not want.valid:
        return  # MGL005 says so
    yield Judged("MGL006")
    worst = max(
        zip(now, want.betas, recipe.base_betas, strict=True), key=lambda b: abs(math.log((1 - b[0]) / (1 - b[1])))
    )
    stretch = (1 - worst[1]) / (1 - worst[0])  # memory in samples, after over before
    if 1 / CLOSE < stretch < CLOSE or 1 / MOVED < k < MOVED:
        return
    yield found(
        "MGL006",
        f"Adam's betas {now[0]:g}, {now[1]:g} keep {times(stretch)} the samples they kept at the base batch",
        where=plan.where("optimizer.betas"),
        evidence=Evidence(value=stretch, threshold=CLOSE, unit="ratio", detail="memory in samples, after over before"),
        means="the square-root rule holds only together with β → 1 - k(1 - β) (Malladi et al. 2022)",
        fix=f"betas = ({want.betas[0]:.4g}, {want.betas[1]:.6g}) and eps divided by {math.sqrt(k):.3g}",
    )


def _intervals(plan: Plan, k: float) -> Iterator[Observation]:
    recipe = plan.recipe
    for name, before in sorted(recipe.base_intervals.items()):
        now = recipe.intervals.get(name)
        if now is None:
            continue
        yield Judged("MGL006")
        stretch = now * k / before
        if 1 / CLOSE < stretch < CLOSE or 1 / MOVED < k < MOVED:
            continue
        yield found(
            "MGL006",
            f"{name} every {show(now)} updates now comes every {_span(plan, now * (recipe.global_batch or 1))} "
            f"instead of {_span(plan, before * (recipe.base_batch or 1))}",
            where=plan.where(f"intervals.{name}"),
            evidence=Evidence(
                value=stretch, threshold=CLOSE, unit="ratio", detail="interval in samples, after over before"
            ),
            means="counted in updates, it sees the model less often: early stopping waits longer, fewer "
            "checkpoints exist",
            fix=f"{name} = {max(1, round(before / k))} updates, or count it in samples or epochs",
        )


def constants_table(plan: Plan) -> Iterator[Observation]:
    """Every constant counted in updates, in samples or epochs, before and after, if its number is kept."""
    recipe = plan.recipe
    if not recipe.global_batch or not recipe.base_batch:
        return
    rows: list[tuple[Scalar, ...]] = []
    steps: dict[str, float] = {}
    schedule = recipe.schedule
    if schedule is not None:
        steps |= {"warm-up": schedule.warmup_steps or 0.0, "schedule end": schedule.total_steps or 0.0}
        steps |= {"decay": schedule.decay_steps or 0.0, "cycle": schedule.cycle_steps or 0.0}
        steps |= {f"milestone {i + 1}": item for i, item in enumerate(schedule.milestones)}
    steps |= dict(recipe.intervals)
    for name, count in steps.items():
        if count:
            rows.append((name, show(count), *_spans(plan, count * recipe.base_batch, count * recipe.global_batch)))
    decays = {"weight average": recipe.ema_decay or recipe.base_ema_decay}
    if plan.adaptive:
        betas = recipe.betas or TORCH_BETAS
        decays |= {"Adam β1": betas[0], "Adam β2": betas[1]}
    for name, decay in decays.items():
        if decay:
            before, after = (scaling.horizon(decay, size) for size in (recipe.base_batch, recipe.global_batch))
            rows.append((name, f"{decay:g}", *_spans(plan, before, after)))
    if rows:
        columns = ("constant", "value", "samples before", "after", "epochs before", "after")
        yield Table("Constants counted in steps, if kept", columns[: len(rows[0])], rows)
    if recipe.max_grad_norm and plan.k and plan.k > 1:
        yield Measurement("max_grad_norm", recipe.max_grad_norm, "1")


def _span(plan: Plan, samples: float) -> str:
    """Say a stretch of data in epochs where the data set's size is known, else in samples."""
    size = plan.recipe.dataset_size
    return f"{samples / size:.3g} epochs" if size else f"{samples:.6g} samples"


def _spans(plan: Plan, before: float, after: float) -> tuple[str, ...]:
    """Return two stretches of data in samples, and in epochs where the data set's size is known."""
    size = plan.recipe.dataset_size
    samples = (show(round(before)), show(round(after)))
    return (*samples, f"{before / size:.3g}", f"{after / size:.3g}") if size else samples
