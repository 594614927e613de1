"""What would another p, no rescale, or another place do? Answered by closed form, site by site."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.checks.dropout.case import CLASSES, REGRESSION, is_path
from nndiag.core.findings import Measurement, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.dropout.case import Case
    from nndiag.core.findings import Observation, Scalar
    from nndiag.lab.dropout.measure import Gauge
    from nndiag.lab.dropout.sites import Site

SITES = 12


@dataclass(frozen=True)
class Scenario:
    """One way to run a site, and what closed form says of it."""

    name: str
    slope: float
    mean: float  # training over eval mean behind the activation
    variance: float  # training over eval variance into batch norm
    gap: float  # training less eval loss


def what_if(case: Case) -> Iterator[Observation]:
    """Yield the table, and the predicted loss gap."""
    rows: list[tuple[Scalar, ...]] = []
    for site in [site for site in case.acting if not is_path(site) and not site.fused and site.p < 1][:SITES]:
        gauge = case.gauge(site)
        if gauge is None:
            continue
        scenarios = [_scenario(case, gauge, "as given", site.p), _scenario(case, gauge, "p/2", site.p / 2)]
        if not math.isnan(scenarios[0].gap):
            yield Measurement("loss_gap_predicted", scenarios[0].gap, case.loss_name, site.label)
        scenarios.append(_scenario(case, gauge, "no rescale", site.p, rescaled=False))
        if site.norms:
            scenarios.append(Scenario("behind the batch norm", 1.0, math.nan, 1.0, math.nan))
        rows.extend(
            (site.label, item.name, item.slope, _shown(item.mean), _shown(item.variance), _shown(item.gap))
            for item in scenarios
        )
    if rows:
        columns = ("site", "what if", "slope", "mean ratio", "variance into batch norm", "loss gap")
        yield Table("What if (closed form, training over eval)", columns, tuple(rows))


def _shown(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _scenario(case: Case, gauge: Gauge, name: str, p: float, *, rescaled: bool = True) -> Scenario:
    q = 1 - p
    return Scenario(
        name, 1.0 if rescaled else q, mean_ratio(gauge, p, rescaled=rescaled),
        variance_under(case, gauge.site, p, rescaled=rescaled),
        predicted_gap(case, gauge, p) if rescaled else math.nan,
    )  # fmt: skip


def mean_ratio(gauge: Gauge, p: float, *, rescaled: bool) -> float:
    """E[f(S)] in training over f(mu) in eval, averaged over units and samples."""
    from nndiag.lab.dropout.closed import scattered
    from nndiag.science.rescale import spread

    sums, activation = gauge.sums, gauge.activation
    if isinstance(sums, str) or activation is None or gauge.site.direct:
        return math.nan
    few = scattered(sums.mean.numel(), 4000, sums.mean.device)
    mu = sums.mean
    if not rescaled:
        bias = sums.bias.detach().double() if sums.bias is not None else mu.new_zeros(())
        mu = bias + (1 - p) * (mu - bias) if bias.dim() == 0 or bias.shape[-1] == mu.shape[-1] else mu * (1 - p)
    on = activation.mean(mu.reshape(-1)[few], spread(sums.power.second, p, rescaled=rescaled).reshape(-1)[few])
    off = activation.f(sums.mean.reshape(-1)[few]).mean()
    return float(on.mean() / off) if float(off) else math.nan


def variance_under(case: Case, site: Site, p: float, *, rescaled: bool) -> float:
    """The variance ratio into the nearest batch norm, scaled from the one at hand: 1 + p/q κ, or q² + pq κ."""
    shift = case.flow.shifts.get(site.norms[0].key) if case.flow is not None and site.norms else None
    if shift is None or site.p <= 0:
        return math.nan
    kappa = max(0.0, shift.ratio - 1) * (1 - site.p) / site.p
    q = 1 - p
    return 1 + p / q * kappa if rescaled else q * q + p * q * kappa


def predicted_gap(case: Case, gauge: Gauge, p: float) -> float:
    """What a dropout in front of the last linear map adds to the training loss, to second order."""
    from nndiag.science import rescale_shift as shift

    sums, site = gauge.sums, gauge.site
    last = site.affine.step
    if isinstance(sums, str) or sums.weight is None or sums.rows is None or last is None or not last.makes:
        return math.nan
    if case.main_output not in case.map.walk(last.makes[0], bias=True).way:
        return math.nan
    if case.task == REGRESSION and "mse" in case.loss_name:
        return shift.squared_error_gap(sums.weight, (sums.rows**2).mean(0), p)
    if case.task != CLASSES:
        return math.nan
    logits = sums.rows @ sums.weight.T + (sums.bias.detach().double() if sums.bias is not None else 0.0)
    form = shift.logistic_gap if "bce" in case.loss_name or logits.shape[-1] == 1 else shift.cross_entropy_gap
    return form(sums.weight, sums.rows, logits, p)
