"""Are the inputs on the scale that model and learning rate assume, in training as in serving?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from nndiag.checks.normalization.alone import Limits, examine_scale, examine_values
from nndiag.checks.normalization.cure import range_name
from nndiag.checks.normalization.precision import examine_precision
from nndiag.checks.normalization.serving import PAIR_CODES, examine_pair
from nndiag.checks.normalization.targets import examine_targets
from nndiag.checks.normalization.view import View, ids_reason, layout_text
from nndiag.core.errors import NothingApplicableError
from nndiag.core.findings import Answer, Fact, Finding, Judged, Measurement, Series, Skip, Step, Table
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.core.findings import Observation, Scalar
    from nndiag.core.subject import DataSource, Subject
    from nndiag.lab.scale import Seen

SCALE_CODES = ("NRM001", "NRM002", "NRM003")
MODEL_CODES = ("NRM101", "NRM102", "NRM103", "NRM104", "NRM105", "NRM201")
BARS = 32


@dataclass(frozen=True)
class CheckNormalization:
    """Thresholds of scale, offset and spread; budgets of the experiments."""

    name: ClassVar[str] = "check-normalization"
    feature_axis: int | None = None
    max_scale: float = 10.0  # root mean square of inputs
    min_scale: float = 0.01
    max_ratio: float = 50.0  # sd of one feature against the typical one
    max_offset: float = 10.0  # |mean| in sd
    max_target_scale: float = 100.0
    steps: int = 60  # of micro-training

    def examine(self, subject: Subject) -> Iterator[Observation]:
        """Data alone, then serving, then the model."""
        if subject.data is None:
            raise NothingApplicableError("no data to look at", hint="nndiag check-normalization train.npy")
        yield Step("reading the inputs")
        seen = self._look(subject, subject.data)
        yield from _facts(seen)
        ids = ids_reason(seen)
        view = View(seen.inputs, columns=tuple(getattr(subject.data, "columns", ())))
        collected: list[Finding] = []
        for item in self._all(subject, seen, view, ids):
            if isinstance(item, Finding):
                collected.append(item)
            yield item
        yield from _numbers(seen, view, ids)
        if not any(isinstance(item, Answer) for item in collected):
            yield Answer(_answer(seen, collected, ids))

    def _all(self, subject: Subject, seen: Seen, view: View, ids: str) -> Iterator[Observation]:
        """Every rule, in order of cost."""
        limits = Limits(self.max_scale, self.min_scale, self.max_ratio, self.max_offset)
        yield from examine_values(seen, view)
        if ids:
            yield from (Skip(code, f"the inputs are ids: {ids}") for code in (*SCALE_CODES, "NRM013"))
        elif not subject.model:
            yield from examine_scale(view, limits)
            yield from examine_precision(seen.inputs)
        yield from _twice(seen, view, ids)
        yield from examine_targets(seen.targets, max_scale=self.max_target_scale, outputs=None)
        if subject.serve is None:
            yield from (Skip(code, "no serving data (--serve)") for code in PAIR_CODES if code != "NRM008")
        elif ids:
            yield from (Skip(code, f"the inputs are ids: {ids}") for code in PAIR_CODES)
        else:
            yield Step("comparing with serving")
            yield from examine_pair(seen, self._look(subject, subject.serve), view)
        yield from (Skip(code, "no model") for code in MODEL_CODES)

    def _look(self, subject: Subject, source: DataSource) -> Seen:
        from nndiag.lab.scale import look

        return look(source, self.feature_axis, seconds=lambda: subject.run.seconds_left)


def _twice(seen: Seen, view: View, ids: str) -> Iterator[Observation]:
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


def _facts(seen: Seen) -> Iterator[Observation]:
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


def _numbers(seen: Seen, view: View, ids: str) -> Iterator[Observation]:
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


def _whole(profile: object) -> tuple[str, float, float, float, float]:
    """Range, mean and sd over all features."""
    moments = profile.moments  # type: ignore[attr-defined]
    weight = moments.count / max(moments.count.sum(), 1)
    mean = float((weight * moments.mean).sum())
    variance = float((weight * (moments.variance + (moments.mean - mean) ** 2)).sum())
    return "all", *(_short(v) for v in (moments.low.min(), moments.high.max(), mean, variance**0.5))  # type: ignore[return-value]


def _answer(seen: Seen, collected: list[Finding], ids: str) -> str:
    """The question answered in one sentence."""
    import numpy as np

    profile = seen.inputs
    _, low, high, mean, sd = _whole(profile)
    if not np.isfinite([low, high]).all():
        return "no input value is finite"
    called = range_name(profile)
    numbers = f"{called or f'{low:g} to {high:g}'} (mean {mean:g}, sd {sd:g})"
    worst = sorted(collected, key=lambda item: -item.severity)
    if ids:
        return f"inputs are ids or counts ({low:g} to {high:g}), which need no scaling" + (
            f"; {worst[0].message}" if worst else ""
        )
    if not worst:
        return f"inputs are {numbers}: nothing to scale"
    return f"inputs are {numbers}: {worst[0].message}"


__all__ = ["CheckNormalization", "replace"]
