"""Does the mean survive the next nonlinearity? DRP106, and DRP107 for sums too small for the argument."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.checks.dropout.case import is_path
from nndiag.checks.dropout.placed import more, once, place
from nndiag.core.findings import Evidence, Judged, Measurement, Severity, Skip
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.dropout.case import Case
    from nndiag.core.findings import Observation
    from nndiag.lab.dropout_measure import Gauge
    from nndiag.lab.dropout_sites import Site

# A shift of the mean activation, in units of its root mean square in eval. An ordinary ReLU layer behind p = .5 at
# default initialisation has .23 (training/eval mean 1.41), behind p = .8 it has .7: the first is how dropout is used.
NOTE_SHIFT, WARN_SHIFT = 0.15, 0.45
DIRECT = 0.1  # of the activation's spread, elementwise, where no sum lies between
SKEW, KURTOSIS = 1.0, 1.5  # beyond these the Gaussian is off by some .05 s
DOMINATED = 0.5  # share of sums beyond them


@dataclass(frozen=True)
class Bias:
    """Mean and second moment behind an activation: dropout off, predicted on, measured on."""

    activation: str
    how: str
    off: float
    on_predicted: float
    on: float
    error: float  # of `on`
    rms: float  # in eval
    off_second: float
    on_second: float
    on_second_predicted: float
    crossing: float = math.nan  # mean chance to cross the kink
    participation: float = math.nan  # median
    inputs: int = 0
    dominated: float = 0.0
    closeness: tuple[float, float, float] = (math.nan, math.nan, math.nan)  # quartiles of |mu|/s
    predicted_off: float = math.nan

    @property
    def shift(self) -> float:
        """Measured shift of the mean, in units of the eval root mean square."""
        return (self.on - self.off) / self.rms if self.rms > 0 else math.nan

    @property
    def shift_predicted(self) -> float:
        """The same by closed form."""
        return (self.on_predicted - self.predicted_off) / self.rms if self.rms > 0 else math.nan

    @property
    def ratio(self) -> float:
        """Training mean over eval mean."""
        return self.on / self.off if self.off else math.nan

    @property
    def agrees(self) -> bool:
        """Whether closed form and masks say the same."""
        tolerance = 3 * self.error / self.rms + 0.1 * abs(self.shift) + 0.01 if self.rms > 0 else 0.0
        return abs(self.shift - self.shift_predicted) <= tolerance


def bias_of(gauge: Gauge) -> Bias | None:
    """Put closed form and masks side by side; None where there is no sum with an activation behind it."""
    from nndiag.lab.dropout_measure import standard_error
    from nndiag.science import activation_moments as am
    from nndiag.science.rescale import excess_kurtosis, participation, skewness, spread

    sums, activation, site = gauge.sums, gauge.activation, gauge.site
    if isinstance(sums, str) or activation is None or site.direct or not gauge.off or not gauge.on or site.p >= 1:
        return None
    mu, power = sums.mean, sums.power
    s = spread(power.second, site.p)
    if activation.mean_form is None and mu.numel() > 6000:
        few = slice(None, None, max(1, mu.numel() // 6000))
        mu_q, s_q = mu.reshape(-1)[few], s.reshape(-1)[few]
    else:
        mu_q, s_q = mu, s
    predicted = activation.mean(mu_q, s_q)
    still = activation.f(mu_q)
    seconds = mu_q.reshape(-1)[: min(4000, mu_q.numel())], s_q.reshape(-1)[: min(4000, s_q.numel())]
    second = activation.second(*seconds)
    ratio_second = float(second.mean() / (activation.f(seconds[0]) ** 2).mean().clamp_min(1e-300))
    skew, kurtosis = skewness(power, site.p).abs(), excess_kurtosis(power, site.p).abs()
    alive = power.second > 0
    beyond = ((skew > SKEW) | (kurtosis > KURTOSIS))[alive]
    close = (mu.abs() / s.clamp_min(1e-300))[alive]
    quartiles = [float(close.quantile(q)) if 0 < close.numel() < 10_000_000 else math.nan for q in (0.25, 0.5, 0.75)]
    means = [value for value, _ in gauge.on]
    return Bias(
        activation=activation.name,
        how=activation.how,
        off=gauge.off[0],
        on_predicted=float(predicted.mean()),
        on=sum(means) / len(means),
        error=standard_error(means),
        rms=math.sqrt(gauge.off[1]),
        off_second=gauge.off[1],
        on_second=sum(value for _, value in gauge.on) / len(gauge.on),
        on_second_predicted=gauge.off[1] * ratio_second,
        crossing=float(am.crossing(mu, s).mean()),
        participation=float(participation(power)[alive].median()) if bool(alive.any()) else math.nan,
        inputs=sums.inputs,
        dominated=float(beyond.double().mean()) if beyond.numel() else 0.0,
        closeness=(quartiles[0], quartiles[1], quartiles[2]),
        predicted_off=float(still.mean()),
    )


def judge_bias(case: Case) -> Iterator[Observation]:
    """Yield what the nonlinearity behind each dropout does to the mean."""
    judged = False
    for sites in once(case.acting):
        for site in sites:
            gauge = case.gauge(site)
            if gauge is None or is_path(site) or site.fused:
                continue
            yield from _measured(site, gauge)
        biases = [(s, b) for s in sites if (g := case.gauge(s)) is not None and not is_path(s) and (b := bias_of(g))]
        if biases:
            judged = True
            yield from _affine_finding(case, biases)
            yield from _dominated(case, biases)
        direct = [(s, d) for s in sites if (g := case.gauge(s)) is not None and (d := direct_bias(g)) is not None]
        if direct:
            judged = True
            yield from _direct_finding(case, direct)
    if judged:
        yield Judged("DRP106")
        yield Judged("DRP107")
    else:
        reason = "no dropout has an activation behind it that could bend the mean"
        yield Skip("DRP106", reason)
        yield Skip("DRP107", reason)


def _measured(site: Site, gauge: Gauge) -> Iterator[Observation]:
    bias = bias_of(gauge)
    if bias is None:
        if site.activation is not None and not site.direct and gauge.activation is None:
            yield Skip("DRP106", "what follows is no elementwise function", site.label)
        elif site.activation is not None and isinstance(gauge.sums, str) and not site.direct:
            yield Skip("DRP106", f"no closed form: {gauge.sums}", site.label)
        return
    half = 1.96 * bias.error / abs(bias.off) if bias.off else math.nan
    yield Measurement("mean_ratio", bias.ratio, "ratio", site.label, (bias.ratio - half, bias.ratio + half))
    base = bias.off or math.nan
    yield Measurement(
        "mean_ratio_predicted", (bias.off + bias.on_predicted - bias.predicted_off) / base, "ratio", site.label
    )
    yield Measurement("mean_shift", bias.shift, "eval rms", site.label)
    yield Measurement("mean_shift_predicted", bias.shift_predicted, "eval rms", site.label)
    if bias.off_second > 0:
        yield Measurement("second_moment_ratio", bias.on_second / bias.off_second, "ratio", site.label)
        yield Measurement(
            "second_moment_ratio_predicted", bias.on_second_predicted / bias.off_second, "ratio", site.label
        )
    yield Measurement("participation_ratio", bias.participation, "inputs", site.label)
    yield Measurement("crossing_probability", bias.crossing, "probability", site.label)


def _affine_finding(case: Case, biases: list[tuple[Site, Bias]]) -> Iterator[Observation]:
    site, bias = max(biases, key=lambda item: abs(item[1].shift) if not math.isnan(item[1].shift) else 0.0)
    size = abs(bias.shift)
    if not size >= NOTE_SHIFT or abs(bias.on - bias.off) <= 5 * bias.error:
        return
    settled = size >= WARN_SHIFT and bias.agrees
    half = 1.96 * bias.error / bias.rms
    fits = "closed form and masks agree" if bias.agrees else "the Gaussian form does not apply: too few contributions"
    through = case.map.next_module(site.affine) or (site.affine.step.op if site.affine.step else "")
    yield found(
        "DRP106",
        f"behind '{through}' the mean {bias.activation} is {bias.ratio:.2f}x its eval value"
        f"{more([s for s, _ in biases])} (closed form {bias.off + bias.on_predicted - bias.predicted_off:.3g} against "
        f"{bias.off:.3g})",
        where=place(case, site),
        evidence=Evidence(
            value=bias.shift, unit="eval rms", interval=(bias.shift - half, bias.shift + half),
            threshold=WARN_SHIFT if settled else NOTE_SHIFT, n=case.n, seed=case.subject.run.seed,
            detail=f"shift of the mean, predicted {bias.shift_predicted:.3g} by {bias.how}; {fits}",
        ),
        means=f"1/(1-p) keeps the mean of the sum, and {bias.activation} bends it: the chance to cross its kink is "
              f"{bias.crossing:.2f}; later layers see other means in training than in eval",
        fix=f"lower p, or put the dropout behind the activation (p = {site.p / 2:.2g} roughly halves the shift)",
        severity=Severity.WARNING if settled else Severity.NOTE,
    )  # fmt: skip


def _dominated(case: Case, biases: list[tuple[Site, Bias]]) -> Iterator[Observation]:
    site, bias = max(biases, key=lambda item: item[1].dominated)
    if bias.dominated < DOMINATED:
        return
    yield found(
        "DRP107",
        f"half of the sums behind dropout hang on fewer than {bias.participation:.1f} of {bias.inputs} inputs"
        f"{more([s for s, _ in biases])}",
        where=place(case, site),
        evidence=Evidence(
            value=bias.dominated, unit="share of sums", threshold=DOMINATED, n=case.n,
            detail=f"|skew| > {SKEW:g} or |excess kurtosis| > {KURTOSIS:g}; median participation ratio {bias.participation:.2f}",  # noqa: E501 - one sentence
        ),
        means="dropout changes such a sum in jumps, not in small steps: 1/(1-p) is right on average and far off each time",  # noqa: E501 - one sentence
        fix="lower p here, or widen the layer: a low p needs more contributors than p = .5",
    )  # fmt: skip


@dataclass(frozen=True)
class Direct:
    """Dropout directly in front of an elementwise function or a softmax."""

    name: str
    relative: float  # root mean square of the bias over the spread of the eval values
    at_zero: float
    exact: bool


def direct_bias(gauge: Gauge) -> Direct | None:
    """How far E[f(m x/q)] is from f(x), element by element; None where nothing bends."""
    from nndiag.lab.dropout_graph import Step
    from nndiag.science.rescale import direct_mean

    site = gauge.site
    if not site.direct or gauge.fed is None or not 0 < site.p < 1 or is_path(site):
        return None
    activation = gauge.activation
    if activation is not None:
        if activation.homogeneous:
            return None
        x = gauge.fed.double()
        still = activation.f(x)
        bias = direct_mean(x, site.p, activation) - still
        zero = float(activation.f(x.new_zeros(1)))
        return Direct(activation.name, _relative(bias.square().mean().item(), still), zero, exact=True)
    if gauge.off_values is None or not isinstance(site.activation, Step) or "softmax" not in site.activation.op:
        return None
    return _softmax_bias(gauge, site.activation.op)


def _softmax_bias(gauge: Gauge, op: str) -> Direct | None:
    first, second = gauge.halves
    if first is None or second is None or gauge.off_values is None:
        return None
    square = float(((first - gauge.off_values) * (second - gauge.off_values)).mean())  # unbiased: independent halves
    return Direct(op, _relative(max(0.0, square), gauge.off_values), 0.0, exact=False)


def _relative(square: float, still: object) -> float:
    spread = float(still.std(unbiased=False))  # type: ignore[attr-defined]
    return math.sqrt(square) / spread if spread > 0 else 0.0


def _direct_finding(case: Case, direct: list[tuple[Site, Direct]]) -> Iterator[Observation]:
    site, bent = max(direct, key=lambda item: item[1].relative)
    if bent.relative < DIRECT:
        return
    softmax = "softmax" in bent.name
    zero = "a dropped logit is 0, not minus infinity" if softmax else f"a dropped unit becomes {bent.at_zero:.3g}"
    yield found(
        "DRP106",
        f"dropout stands directly in front of {bent.name}{more([s for s, _ in direct])}: {zero}, and the mean is off by "  # noqa: E501 - one sentence
        f"{bent.relative:.2g} of its spread",
        where=place(case, site),
        evidence=Evidence(
            value=bent.relative, unit="spread of the eval values", threshold=DIRECT, n=case.n, seed=case.subject.run.seed,  # noqa: E501 - one sentence
            detail="q f(x/q) + p f(0) against f(x), exact" if bent.exact else "two independent halves of the masks",
        ),
        means=f"E[{bent.name}(dropout(x))] is not {bent.name}(x): there is no sum between that would average",
        fix=f"put the dropout behind {bent.name}",
    )  # fmt: skip
