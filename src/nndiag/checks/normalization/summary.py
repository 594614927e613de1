"""What is printed whether or not anything is wrong: numbers per feature, spectrum, the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.checks.normalization.cure import brief_cure, range_name
from nndiag.checks.normalization.view import layout_text
from nndiag.core.findings import Fact, Finding, Judged, Measurement, Series, Severity, Table
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Observation, Scalar
    from nndiag.lab.scale import Seen
    from nndiag.science.moments_profile import Profile

BARS = 32


def normalised_twice(seen: Seen, view: View, ids: str) -> Iterator[Observation]:
    """NRM008 on one set alone: images whose values only come from a normaliser applied twice."""
    from nndiag.science.preprocessing import recognise

    profile = seen.inputs
    if ids or profile.layout.kind != "images" or profile.features not in {1, 3}:
        return
    flat = profile.finite_sample.swapaxes(1, 2).reshape(-1, profile.features)
    made = recognise(flat[:400_000])
    yield Judged("NRM008")
    if made is None:
        return
    yield Fact("preprocessing", made.name, f"8-bit images as {made.name}")
    if made.twice and made.twice != "/255":
        yield found(
            "NRM008",
            f"{view.what} are normalised twice: {made.name} (mean {profile.moments.mean[0]:.4g}, sd "
            f"{profile.moments.sd[0]:.4g} in channel 0)",
            means="the values are those of a normaliser applied to what it had already made",
            fix="remove one of the two (processor and data loader both normalise)",
        )


def facts(seen: Seen) -> Iterator[Observation]:
    """What was looked at."""
    profile = seen.inputs
    yield Fact("inputs", layout_text(profile), layout_text(profile) + (f" under '{seen.key}'" if seen.key else ""))
    yield Fact("rows", profile.rows, "")
    yield Fact("feature_axis", profile.layout.axis, "")
    if seen.others:
        yield Fact("not_looked_at", ", ".join(seen.others), f"not looked at: {', '.join(seen.others)}")
    if not seen.complete:
        yield found(
            "NND902",
            f"the time budget ended the pass over the data after {profile.rows} rows",
            means="the numbers are those of the rows seen so far",
            fix="raise --max-seconds",
        )


def input_numbers(seen: Seen, view: View, ids: str) -> Iterator[Observation]:
    """The measurements that a healthy set gets too."""
    import numpy as np

    from nndiag.science.conditioning import spectrum
    from nndiag.science.moments import robust

    profile = seen.inputs
    moments = profile.moments
    flat = np.moveaxis(profile.finite_sample, 1, 2).reshape(-1, profile.features)
    centre, spread = robust(flat[:: max(1, len(flat) // 20_000)])
    shown = range(min(profile.features, BARS))
    rows: list[tuple[Scalar, ...]] = [
        (
            view.column(j),
            *(_short(part[j]) for part in (moments.low, moments.high, moments.mean, moments.sd, centre, spread)),
        )
        for j in shown
    ]
    if len(rows) <= 12:
        yield Table("features", ("feature", "min", "max", "mean", "sd", "median", "MAD sd"), rows, main=True)
    else:
        yield Table("features", ("feature", "min", "max", "mean", "sd", "median", "MAD sd"), rows)
        yield Table("inputs", ("", "min", "max", "mean", "sd"), [_whole(profile)], main=True)
    for name, value in zip(("input_min", "input_max", "input_mean", "input_sd"), _whole(profile)[1:], strict=True):
        yield Measurement(name, float(value), "")
    labels = tuple(view.column(j) for j in shown)
    for name, part in (("minimum", moments.low), ("mean", moments.mean), ("maximum", moments.high)):
        values = tuple(float(part[j]) for j in shown)
        yield Series(name, tuple(range(len(values))), values, "", group="per-feature range", kind="bar", labels=labels)
    if ids or len(flat) < 2:
        return
    counts, edges = np.histogram(flat.reshape(-1), bins=24)
    middle = (edges[:-1] + edges[1:]) / 2
    yield Series(
        "input values", tuple(map(float, middle)), tuple(map(float, counts)), "values", group="inputs", kind="histogram"
    )
    vectors = profile.vectors
    vectors = vectors[:, :: max(1, vectors.shape[1] // 1200)]
    found_spectrum = spectrum(vectors[:4096])
    for name, value in (
        ("second_moment_top", found_spectrum.top),
        ("condition_uncentred", found_spectrum.condition),
        ("condition_centred", found_spectrum.centred_condition),
        ("condition_white_baseline", found_spectrum.baseline),
        ("effective_rank", found_spectrum.effective_rank),
    ):
        if np.isfinite(value):
            yield Measurement(name, float(value), "")


def _short(value: float) -> float:
    return float(f"{float(value):.4g}")


def _whole(profile: Profile) -> tuple[str, float, float, float, float]:
    """Range, mean and sd over all features."""
    moments = profile.moments
    weight = moments.count / max(moments.count.sum(), 1)
    mean = float((weight * moments.mean).sum())
    variance = float((weight * (moments.variance + (moments.mean - mean) ** 2)).sum())
    return "all", _short(moments.low.min()), _short(moments.high.max()), _short(mean), _short(variance**0.5)


def answer(seen: Seen, findings: list[Finding], numbers: dict[str, float], ids: str) -> str:
    """The question answered in one sentence."""
    import numpy as np

    profile = seen.inputs
    _, low, high, mean, sd = _whole(profile)
    if not np.isfinite([low, high]).all():
        return "no input value is finite"
    said = f"{range_name(profile) or f'{low:g} to {high:g}'} (mean {mean:g}, sd {sd:g})"
    worst = sorted(findings, key=lambda item: -item.severity)
    if ids:
        rest = f"; {worst[0].message}" if worst else ""
        return f"inputs are ids or counts ({low:g} to {high:g}), which need no scaling{rest}"
    above = next((item for item in findings if item.rule.code == "NRM101"), None)
    if above is not None and above.evidence.value:
        lr = numbers["learning_rate"]
        ceiling = lr / above.evidence.value
        return (
            f"inputs are {said}: the first layer's learning-rate ceiling is {ceiling:.2g}, your lr {lr:g} is "
            f"{round(lr / ceiling, 1 if lr < 10 * ceiling else None):,}x above it; {brief_cure(profile)}"
        )
    ceiling = numbers.get("learning_rate_ceiling", float("nan"))
    room = f"; the first layer bears a learning rate up to {ceiling:.2g}" if np.isfinite(ceiling) else ""
    if not worst or worst[0].severity is Severity.NOTE:
        scale = next((item for item in worst if item.rule.code in {"NRM001", "NRM002", "NRM003"}), None)
        if scale is not None:
            why = scale.means.rpartition("; ")[2]
            return f"inputs are {said}, far from unit scale ({scale.rule.code}); {why}{room}"
        told = next((item for item in worst if not item.rule.code.startswith("NND")), None)
        note = f" ({told.rule.code}: {told.message})" if told else ""
        return f"inputs are {said}: nothing to scale{note}{room}"
    return f"inputs are {said}: {worst[0].message}{room}"
