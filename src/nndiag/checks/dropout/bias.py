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
    from nndiag.lab.dropout.expect import Expected
    from nndiag.lab.dropout.measure import Gauge
    from nndiag.lab.dropout.sites import Site

# A shift of the mean activation, in units of its root mean square in eval. An ordinary ReLU layer behind p = .5 at
# default initialisation has .23 (training/eval mean 1.41), behind p = .8 it has .7: the first is how dropout is used.
NOTE_SHIFT, WARN_SHIFT = 0.15, 0.45
CENTRED = 0.05  # of the root mean square: a smaller mean is no base for a ratio
DIRECT = 0.1  # of the activation's spread, elementwise, where no sum lies between
DOMINATED = 0.5  # share of sums beyond them


@dataclass(frozen=True)
class Bias:
    """Mean and second moment behind an activation: dropout off, predicted on, measured on."""

    activation: str
    predicted: Expected
    off: float
    on: float
    error: float  # of `on`
    rms: float  # in eval, or in training where eval is silent
    off_second: float
    on_second: float
    crossing: float  # mean chance to cross the kink
    inputs: int
    closeness: tuple[float, float, float]  # quartiles of |mu|/s

    @property
    def shift(self) -> float:
        """Measured shift of the mean, in units of the eval root mean square."""
        return (self.on - self.off) / self.rms if self.rms > 0 else math.nan

    @property
    def shift_predicted(self) -> float:
        """The same by closed form."""
        return (self.predicted.on - self.predicted.off) / self.rms if self.rms > 0 else math.nan

    @property
    def on_predicted(self) -> float:
        """The mean in training by closed form."""
        return self.off + self.predicted.on - self.predicted.off

    @property
    def ratio(self) -> float:
        """Training mean over eval mean; nan where the eval mean is next to nothing, as behind tanh."""
        return self.on / self.off if abs(self.off) > CENTRED * self.rms else math.nan

    @property
    def agrees(self) -> bool:
        """Whether closed form and masks say the same."""
        tolerance = 3 * self.error / self.rms + 0.1 * abs(self.shift) + 0.01 if self.rms > 0 else 0.0
        return abs(self.shift - self.shift_predicted) <= tolerance

    @property
    def verdict(self) -> str:
        """Whether the closed form applies, and where the rest of the difference comes from if not."""
        how = f" ({self.predicted.how})" if self.predicted.how else ""
        if self.agrees:
            return f"closed form{how} and masks agree"
        few = self.predicted.dominated >= 0.1 and not self.predicted.enumerated
        return "the Gaussian form does not apply: too few contributions" if few else "closed form and masks disagree"


def bias_of(gauge: Gauge) -> Bias | None:
    """Put closed form and masks side by side; None where there is no sum with an activation behind it."""
    from nndiag.lab.dropout.expect import expected
    from nndiag.lab.dropout.measure import standard_error
    from nndiag.science import activation_moments as am
    from nndiag.science.rescale import spread

    sums, activation, site = gauge.sums, gauge.activation, gauge.site
    if isinstance(sums, str) or activation is None or site.direct or not gauge.off or not gauge.on or site.p >= 1:
        return None
    if gauge.expected is None:  # several judges ask
        gauge.expected = expected(sums, activation, site.p)
    s = spread(sums.power.second, site.p)
    close = (sums.mean.abs() / s.clamp_min(1e-300))[sums.power.second > 0]
    quartiles = [float(close.quantile(q)) if 0 < close.numel() < 10_000_000 else math.nan for q in (0.25, 0.5, 0.75)]
    means = [value for value, _ in gauge.on]
    on_second = sum(value for _, value in gauge.on) / len(gauge.on)
    return Bias(
        activation=activation.name,
        predicted=gauge.expected,
        off=gauge.off[0],
        on=sum(means) / len(means),
        error=standard_error(means),
        rms=math.sqrt(gauge.off[1] or on_second),  # what is silent in eval is measured by training
        off_second=gauge.off[1],
        on_second=on_second,
        crossing=float(am.crossing(sums.mean, s).mean()),
        inputs=sums.inputs,
        closeness=(quartiles[0], quartiles[1], quartiles[2]),
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
        reason = case.or_late("no dropout has an activation behind it that could bend the mean")
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
    predicted = bias.predicted
    if not math.isnan(bias.ratio):
        half = 1.96 * bias.error / abs(bias.off)
        yield Measurement("mean_ratio", bias.ratio, "ratio", site.label, (bias.ratio - half, bias.ratio + half))
        yield Measurement("mean_ratio_predicted", bias.on_predicted / bias.off, "ratio", site.label)
    yield Measurement("mean_off", bias.off, bias.activation, site.label)
    yield Measurement("mean_on", bias.on, bias.activation, site.label)
    yield Measurement("mean_on_predicted", bias.on_predicted, bias.activation, site.label)
    gaussian = bias.off + predicted.gaussian - predicted.off
    yield Measurement("mean_on_gaussian", gaussian, bias.activation, site.label)
    yield Measurement("mean_shift", bias.shift, "eval rms", site.label)
    yield Measurement("mean_shift_predicted", bias.shift_predicted, "eval rms", site.label)
    if bias.off_second > 0:
        yield Measurement("second_moment_ratio", bias.on_second / bias.off_second, "ratio", site.label)
        yield Measurement("second_moment_ratio_predicted", predicted.second_ratio, "ratio", site.label)
    yield Measurement("participation_ratio", predicted.participation, "inputs", site.label)
    yield Measurement("dominated_sums", predicted.dominated, "share of sums", site.label)
    yield Measurement("crossing_probability", bias.crossing, "probability", site.label)
    yield Measurement("linearity_radius", bias.closeness[1], "|mean|/spread, median", site.label)


def _affine_finding(case: Case, biases: list[tuple[Site, Bias]]) -> Iterator[Observation]:
    site, bias = max(biases, key=lambda item: abs(item[1].shift) if not math.isnan(item[1].shift) else 0.0)
    size = abs(bias.shift)
    if not size >= NOTE_SHIFT or abs(bias.on - bias.off) <= 5 * bias.error:
        return
    settled = size >= WARN_SHIFT and bias.agrees
    half = 1.96 * bias.error / bias.rms
    bare = math.isnan(bias.ratio)
    size_of = f"{bias.on:.3g} where eval has {bias.off:.3g}" if bare else f"{bias.ratio:.2f}x its eval value"
    through = case.map.next_module(site.affine) or (site.affine.step.op if site.affine.step else "")
    yield found(
        "DRP106",
        f"behind '{through}' the mean {bias.activation} is {size_of}{more([s for s, _ in biases])} "
        f"(closed form {bias.on_predicted:.3g} against {bias.off:.3g})",
        where=place(case, site),
        evidence=Evidence(
            value=bias.shift, unit="eval rms", interval=(bias.shift - half, bias.shift + half),
            threshold=WARN_SHIFT if settled else NOTE_SHIFT, n=case.n, seed=case.subject.run.seed,
            detail=f"shift of the mean, predicted {bias.shift_predicted:.3g}; {bias.verdict}",
        ),
        means=f"1/(1-p) keeps the mean of the sum, and {bias.activation} bends it: the chance to cross its kink is "
              f"{bias.crossing:.2f}; later layers see other means in training than in eval",
        fix=f"lower p, or put the dropout behind the activation (p = {site.p / 2:.2g} roughly halves the shift)",
        severity=Severity.WARNING if settled else Severity.NOTE,
    )  # fmt: skip


def _dominated(case: Case, biases: list[tuple[Site, Bias]]) -> Iterator[Observation]:
    from nndiag.lab.dropout.expect import KURTOSIS, SKEW

    site, bias = max(biases, key=lambda item: item[1].predicted.dominated)
    few = bias.predicted
    if few.dominated < DOMINATED:
        return
    limits = f"|skew| > {SKEW:g} or |excess kurtosis| > {KURTOSIS:g}"
    yield found(
        "DRP107",
        f"half of the sums behind dropout hang on fewer than {few.participation:.1f} of {bias.inputs} inputs"
        f"{more([s for s, _ in biases])}",
        where=place(case, site),
        evidence=Evidence(
            value=few.dominated, unit="share of sums", threshold=DOMINATED, n=case.n,
            detail=f"{limits}; median participation ratio {few.participation:.2f}",
        ),
        means="dropout moves such a sum in jumps: 1/(1-p) is right on average and far off each time",
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
    from nndiag.lab.dropout.graph import Step
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
        f"dropout stands directly in front of {bent.name}{more([s for s, _ in direct])}: {zero}, "
        f"and the mean is off by {bent.relative:.2g} of its spread",
        where=place(case, site),
        evidence=Evidence(
            value=bent.relative, unit="spread of the eval values", threshold=DIRECT, n=case.n,
            seed=case.subject.run.seed,
            detail="q f(x/q) + p f(0) against f(x), exact" if bent.exact else "two independent halves of the masks",
        ),
        means=f"E[{bent.name}(dropout(x))] is not {bent.name}(x): there is no sum between that would average",
        fix=f"put the dropout behind {bent.name}",
    )  # fmt: skip
