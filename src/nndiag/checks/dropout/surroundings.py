"""What feeds each dropout, what does it drop together, what reads it, and is there a prediction for that?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nndiag.checks.dropout.bias import bias_of, direct_bias
from nndiag.checks.dropout.case import is_path
from nndiag.checks.dropout.overview import short
from nndiag.checks.dropout.placed import once
from nndiag.core.findings import Measurement, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.dropout.case import Case
    from nndiag.core.findings import Observation, Scalar
    from nndiag.lab.dropout.gates import Gate
    from nndiag.lab.dropout.measure import Gauge
    from nndiag.lab.dropout.sites import Site

SHORT = {
    "scaled_dot_product_attention": "sdpa", "multi_head_attention_forward": "attention", "alpha_dropout": "alpha",
    "feature_alpha_dropout": "alpha",
}  # fmt: skip
WHY = {
    "normaliser": "a normaliser divides by its own spread: no elementwise function",
    "add": "a sum with what was not dropped bends nothing",
    "dropout": "another dropout reads it",
    "output": "the output: nothing bends the mean",
    "loss": "the loss itself reads it",
    "pool": "a pool reads it",
    "nowhere": "nothing reads it",
    "matmul": "a product with another activation: no fixed weights",
}


def surroundings(case: Case) -> Iterator[Observation]:
    """Yield the table of places, and one of predictions beside measurements with a reason where there is none."""
    places: list[list[Scalar]] = []
    rows: list[list[Scalar]] = []
    for sites in once(case.sites):
        site, seen = sites[0], sites[0].seen
        times = f" ×{len(sites)}" if len(sites) > 1 else ""
        line = f"{(seen.where.file or '').rpartition('/')[2]}:{seen.where.line}" if seen.where.line else ""
        places.append([
            short(site.label) + times, SHORT.get(seen.variant, seen.variant), round(site.p, 3),
            _mask(case, site), _feeder(site), _reader(case, site), line,
        ])  # fmt: skip
        rows.append([short(site.label) + times, *_prediction(case, site)])
    for site in case.acting:
        gauge = case.gauge(site)
        if gauge is not None and not isinstance(gauge.gates, str):
            yield from _measured(site, gauge.gates)
    if places:
        yield Table("Where each dropout stands", ("site", "variant", "p", "mask", "fed by", "read by", "line"), places)
        yield Table(
            "The mean behind each dropout, predicted and measured",
            ("site", "behind", "predicted", "measured", "verdict"), rows,
        )  # fmt: skip


def _mask(case: Case, site: Site) -> str:
    """What one mask element drops together: of (N, T, C) handed to Dropout1d a row, whatever torch calls it."""
    gauge = case.gauge(site)
    return gauge.unit if gauge is not None and gauge.unit else site.seen.dial.unit


def _feeder(site: Site) -> str:
    from nndiag.lab.dropout.ops import RECURRENT

    if site.fused:
        return "the layer below" if site.seen.variant in RECURRENT else "attention weights"
    return SHORT.get(site.feeder, site.feeder) or "unknown"


def _reader(case: Case, site: Site) -> str:
    if site.fused:
        return "the call itself"
    end = site.affine if site.affine.kind == "affine" else site.anchor
    name = short(case.map.end_name(end))
    then = _activation(site)
    return f"{name}, {then}" if then and not site.direct else name


def _activation(site: Site) -> str:
    from nndiag.lab.dropout.graph import Span

    acts = site.activation
    return "" if acts is None else type(acts.module).__name__ if isinstance(acts, Span) else acts.op


def _prediction(case: Case, site: Site) -> tuple[str, float | None, float | None, str]:
    """What stands behind, the number predicted, the number measured, and whether they agree or why there is none."""
    gauge = case.gauge(site)
    if gauge is None or not case.measured:
        return "", None, None, case.or_late("drops nothing in training")
    if not isinstance(gauge.gates, str):
        return _of_gates(gauge.gates)
    bias = bias_of(gauge)
    if bias is not None and not is_path(site):
        return bias.activation, _round(bias.on_predicted), _round(bias.on), bias.verdict
    direct = direct_bias(gauge)
    if direct is not None:
        kind = "exact, per element" if direct.exact else "from halves of the masks"
        return direct.name, None, _round(direct.relative), f"bias over spread, {kind}"
    return "", None, None, "none: " + _reason(site, gauge)


def _reason(site: Site, gauge: Gauge) -> str:
    """The first reason that holds."""
    activation, affine = gauge.activation, site.affine.kind == "affine"
    even = site.direct and activation is not None and activation.homogeneous
    unseen = gauge.sums if isinstance(gauge.sums, str) else "what follows is no elementwise function"
    reasons = (
        (is_path(site), "it drops whole branches, not terms of a sum"),
        (isinstance(gauge.gates, str) and gauge.gates != "", gauge.gates),
        (site.fused, "it drops attention weights, whose sum with the values has no fixed weights"),
        (site.p >= 1, "p = 1 passes nothing on"),
        (affine and site.activation is None, "nothing elementwise reads the sum alone: it is linear, the mean holds"),
        (affine, unseen),
        (even, f"{activation.name if activation is not None else ''} scales with its input: the mean holds exactly"),
    )
    other = site.affine.step.op if site.affine.step is not None else site.affine.kind
    return next((str(text) for holds, text in reasons if holds), WHY.get(site.affine.kind, f"{other} reads it"))


def _of_gates(gates: tuple[Gate, ...]) -> tuple[str, float | None, float | None, str]:
    gate = max(gates, key=lambda item: abs(item.drawn - item.off) / max(item.rms, 1e-300))
    apart = abs(gate.predicted - gate.drawn)
    agree = apart <= 3 * gate.error + 0.1 * abs(gate.drawn - gate.off) + 0.01 * gate.rms
    behind = f"gate {gate.name} of {' '.join(item.name for item in gates)}"
    says = "quadrature and masks agree" if agree else "quadrature and masks disagree"
    return behind, _round(gate.predicted), _round(gate.drawn), f"{says}; {gate.off:.3g} in eval"


def _measured(site: Site, gates: tuple[Gate, ...]) -> Iterator[Measurement]:
    for gate in gates:
        half = 1.96 * gate.error
        where = f"{site.label} → gate {gate.name}"
        yield Measurement("gate_mean_off", gate.off, "activation", where)
        yield Measurement("gate_mean_on", gate.drawn, "activation", where, (gate.drawn - half, gate.drawn + half))
        yield Measurement("gate_mean_on_predicted", gate.predicted, "activation", where)
        yield Measurement("gate_noise", gate.spread_drawn, "activation", where)
        yield Measurement("gate_noise_predicted", gate.spread_predicted, "activation", where)


def _round(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.4g}")
