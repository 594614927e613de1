"""Is the square-root rule used where it exists, and what does every rule ask for?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nndiag.checks.multigpu_lr.plan import show, times
from nndiag.checks.multigpu_lr.rate import SAME, missing
from nndiag.core.findings import Evidence, Judged, Measurement, Severity, Skip, Table
from nndiag.core.rules import found
from nndiag.science import scaling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.multigpu_lr.plan import Plan
    from nndiag.core.findings import Observation

TORCH_BETAS = (0.9, 0.999)
GOYAL_K = 4.0  # up to here the two rules lie within a factor of two


def judge_square_root(plan: Plan, factor: float = 1.0) -> Iterator[Observation]:
    """MGL005: the square-root rule also moves Adam's betas, and ends where β1 would reach 0.

    Args:
        plan: The recipe.
        factor: What the aggregated gradient was measured to be times the right one: SGD's weights see rate × gradient.
    """
    recipe, k, ratio = plan.recipe, plan.k, plan.rate_ratio
    if ratio is not None and factor > 0 and not plan.adaptive:
        ratio *= factor
    asked = recipe.rule == "sqrt"
    seems = (
        recipe.rule is None
        and ratio is not None
        and k is not None
        and k > 2
        and abs(math.log(ratio / math.sqrt(k))) < math.log(SAME)
    )
    if k is None:
        yield Skip("MGL005", f"needs {missing(plan, rates=False)}")
        return
    if not (asked or seems):
        yield Skip("MGL005", "the square-root rule is not in use")
        return
    if plan.layerwise:
        yield Judged("MGL005")  # a rule of its own: You et al. 2020 keep LAMB's betas
        return
    if plan.adaptive is False:
        yield Judged("MGL005")
        if k > GOYAL_K:
            yield _root_for_sgd(plan, k, asked=asked)
        return
    if plan.adaptive is None:
        yield Skip("MGL005", "needs the optimizer: only Adam's kind has betas to move")
        return
    yield Judged("MGL005")
    betas = base_betas(plan, k)
    scaled = scaling.adam_square_root(recipe.base_lr or recipe.lr or 1.0, k, betas)
    if scaled.valid or k <= 1:
        return
    yield found(
        "MGL005",
        f"at k = {show(k)} the square-root rule asks for β1 = {scaled.betas[0]:.3g}: "
        f"it ends at k = {show(scaled.largest_k)} for β1 = {betas[0]:g}",
        where=plan.where("rule" if asked else "lr"),
        evidence=Evidence(value=k, threshold=scaled.largest_k, unit="ratio", detail="κ against 1 / (1 - β1)"),
        means="the rule keeps Adam's path only together with β → 1 - k(1 - β), which leaves (0, 1); "
        "past that nothing derives √k",
        fix=f"grow the batch to at most {show(scaled.largest_k)}× the base, or measure the gain "
        '(nndiag multigpu-lr --model … --data …) and use rule = "gain"',
        severity=None if asked else Severity.NOTE,
    )


def _root_for_sgd(plan: Plan, k: float, *, asked: bool) -> Observation:
    """The square root is derived for Adam; SGD keeps its path under the linear rule, far below the noise scale."""
    recipe = plan.recipe
    base = recipe.base_lr or recipe.lr or 1.0
    return found(
        "MGL005",
        f"at k = {show(k)} the square root gives SGD {show(scaling.square_root(base, k))} where linear scaling gives "
        f"{show(scaling.linear(base, k))}",
        where=plan.where("rule" if asked else "lr"),
        evidence=Evidence(value=k, threshold=GOYAL_K, unit="ratio", detail="batch ratio"),
        means="Goyal et al. (2017) lost 26.22 % against 23.74 % error so at k = 32; it suits SGD past the noise scale "
        "(Hoffer et al. 2017)",
        fix="the linear rule with a gradual warm-up, or measure the gain (nndiag multigpu-lr --model … --data …)",
        severity=Severity.NOTE,
    )


def base_betas(plan: Plan, k: float) -> tuple[float, float]:
    """Return the betas before scaling: as declared, else the present ones unless they are already scaled ones."""
    recipe = plan.recipe
    if recipe.base_betas:
        return recipe.base_betas
    present = recipe.betas or TORCH_BETAS
    already = scaling.adam_square_root(1.0, k, TORCH_BETAS).betas
    if max(abs(have - want) for have, want in zip(present, already, strict=True)) < 0.02:
        return TORCH_BETAS
    return present


def rates_table(plan: Plan, gain: float | None = None) -> Iterator[Observation]:
    """Every rule's rate with the range in which it holds."""
    recipe, k = plan.recipe, plan.k
    if k is None or recipe.base_lr is None:
        return
    adam = scaling.adam_square_root(recipe.base_lr, k, base_betas(plan, k), recipe.eps or 1e-8)
    rows: list[tuple[str, str, str]] = [
        ("linear", show(scaling.linear(recipe.base_lr, k)), "SGD; batch far below the noise scale"),
        ("square root", show(adam.lr), _adam_words(adam) if plan.adaptive is not False else "Adam, not SGD"),
        ("none", show(recipe.base_lr), "small k, or the batch was not grown"),
    ]
    if gain is not None:
        rows.append(("gain", show(recipe.base_lr * gain), f"{times(gain)} from the measured noise scale"))
    if recipe.dataset_size and recipe.base_batch and recipe.global_batch and recipe.global_batch < recipe.dataset_size:
        smith = scaling.smith_rate(recipe.base_lr, recipe.base_batch, recipe.global_batch, recipe.dataset_size)
        rows.append(("equal noise", show(smith), "SGD; keeps lr (N/B - 1)"))
    if recipe.dataset_size and recipe.global_batch and k > 1:
        updates = scaling.warmup_iterations(recipe.dataset_size, recipe.global_batch)
        rows.append(("warm-up", f"{updates} updates", "5 epochs, linear (Goyal et al. 2017, section 2.2)"))
        yield Measurement("warmup_goyal", updates, "updates")
    yield Table("Learning rates", ("rule", "lr", "holds for"), rows)
    yield Measurement("lr_linear", scaling.linear(recipe.base_lr, k), "1")
    yield Measurement("lr_square_root", adam.lr, "1")


def _adam_words(adam: scaling.AdamScaling) -> str:
    if not adam.valid:
        return f"refused: β1 would be {adam.betas[0]:.3g}; ends at k = {show(adam.largest_k)}"
    return f"Adam; betas {adam.betas[0]:.4g}, {adam.betas[1]:.6g}, eps {adam.eps:.2g}"
