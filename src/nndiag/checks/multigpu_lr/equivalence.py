"""Is the gradient of W ranks × A accumulation steps the gradient of the global batch? If not, by what factor?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.checks.multigpu_lr.comparison import Comparison, compare, emulated, factor_of
from nndiag.checks.multigpu_lr.gradient_findings import MOST_ERROR, batch_dependent, factor_finding, with_batchnorm
from nndiag.checks.multigpu_lr.rate import allowed_range
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Judged, Measurement, Skip, Step, Table
from nndiag.lab import gradients

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.multigpu_lr.measured import Setting
    from nndiag.core.findings import Observation


def judge_equivalence(setting: Setting) -> Iterator[Observation]:
    """MGL101 and MGL102."""
    yield Step("gradients of shards", 0.2)
    try:
        seen = compare(setting)
    except NndiagError as failed:
        if setting.layout.real or failed.exit_code != NndiagError.exit_code:
            raise
        for code in ("MGL101", "MGL102"):
            yield Skip(code, f"no gradient: {failed.message}")
        return
    yield from tell(setting, seen)
    yield from with_batchnorm(setting, seen)


def tell(setting: Setting, seen: Comparison) -> Iterator[Observation]:
    """Turn a comparison into a table, measurements and MGL101 or MGL102."""
    error, cosine = gradients.relative(seen.aggregated, seen.whole)
    yield Measurement("gradient_relative_error", error, "ratio")
    yield Measurement("gradient_cosine", cosine, "cosine")
    yield from _side_by_side(setting, seen)
    if float(seen.whole.norm()) == 0:
        for code in ("MGL101", "MGL102"):
            yield Skip(code, "the gradient of the whole batch is zero")
        return
    if seen.noise > seen.tolerance:
        for code in ("MGL101", "MGL102"):
            yield Skip(
                code,
                f"equal calls in eval mode are {seen.noise:.2g} apart in loss or gradient: nothing can be compared",
            )
        return
    if seen.real and not seen.world_aware:
        here = emulated(setting, seen.parts, seen.sums, seen.counts)
        yield Measurement("real_against_emulated", gradients.relative(seen.aggregated, here)[0], "ratio")
    factor = factor_of(seen)
    if seen.sums.weights is None and not (seen.world_aware and error <= MOST_ERROR):
        yield Skip("MGL101", "the loss of a batch is no sum over its shards: see MGL102")
        yield Judged("MGL102")
        if error > seen.tolerance:
            yield batch_dependent(setting, seen, error, cosine)
        return
    yield Judged("MGL101")
    yield Judged("MGL102")
    if factor is not None:
        yield Measurement("gradient_factor", factor, "ratio")
    if error <= MOST_ERROR or compensated(setting, factor):
        return
    yield factor_finding(setting, seen, factor, (error, cosine))


def compensated(setting: Setting, factor: float | None) -> bool:
    """Whether the declared rate makes up for the factor: summed gradients with an unscaled rate are linear scaling."""
    plan = setting.plan
    if factor is None or factor <= 0:
        return False
    k, ratio = plan.k, plan.rate_ratio
    if k is None or ratio is None or plan.adaptive:
        return setting.plan.recipe.gradient_reduction == "sum" and ratio is None
    low, high = allowed_range(plan, k)
    return low / 1.25 <= ratio * factor <= high * 1.25


def _side_by_side(setting: Setting, seen: Comparison) -> Iterator[Observation]:
    laid = setting.layout
    rows = []
    how = {"mean": 1 / (laid.ranks * laid.micro), "sum over ranks": 1 / laid.micro, "sum over all": 1.0}
    if laid.micro == 1:
        how.pop("sum over all")
    for name, scale in how.items():
        error, cosine = gradients.relative(scale * seen.parts.sum(0), seen.whole)
        size = float((scale * seen.parts.sum(0)).norm()) / max(float(seen.whole.norm()), 1e-300)
        rows.append((f"{name} of {laid.words}", f"{error:.2g}", f"{cosine:.6f}", f"{size:.4g}×"))
    if seen.real:
        error, cosine = gradients.relative(seen.aggregated, seen.whole)
        size = float(seen.aggregated.norm()) / max(float(seen.whole.norm()), 1e-300)
        rows.append((f"process group of {laid.ranks}", f"{error:.2g}", f"{cosine:.6f}", f"{size:.4g}×"))
    yield Table("Aggregated gradient against the whole batch's", ("aggregation", "error", "cosine", "size"), rows)
