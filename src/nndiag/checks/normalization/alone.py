"""Is a set of inputs, by itself, fit to be trained on?"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from nndiag.checks.normalization.cure import cure_for, range_name
from nndiag.checks.normalization.view import columns_of, times
from nndiag.core.findings import Evidence, Judged, Severity, Skip, Where
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nndiag.checks.normalization.view import Columns, View
    from nndiag.core.findings import Finding, Observation
    from nndiag.lab.scale import Seen
    from nndiag.science.moments import Array
    from nndiag.science.resampling import Resampled


MAX_SCALE, MIN_SCALE = 10.0, 0.01  # root mean square of the inputs
MAX_RATIO = 50.0  # largest sd against the typical one
MAX_RATIO_BELOW = 20 * MAX_RATIO  # the typical sd against the smallest one: small features are slow, not unstable
FLAG = 0.5  # half the range of zeros and ones
MAX_OFFSET = 10.0  # |mean| in sd


def examine_values(seen: Seen, view: View) -> Iterator[Observation]:
    """NRM004 and NRM005: what holds for the numbers whatever they mean."""
    profile = seen.inputs
    yield Judged("NRM005")
    yield from spoiled(seen, view, "")
    if profile.rows < 2:
        yield Skip("NRM004", "one row: nothing can vary")
        return
    yield Judged("NRM004")
    yield from _constant(seen, view)


def spoiled(seen: Seen, view: View, whose: str = "serving ") -> Iterator[Finding]:
    """NRM005: values that are no numbers."""
    import numpy as np

    profile = seen.inputs
    bad = profile.moments.nonfinite
    total = int(bad.sum())
    if not total:
        return
    worst = np.flatnonzero(bad)
    row, feature = profile.first_bad or (0, int(worst[0]))
    share = total / max(total + profile.moments.count.sum(), 1)
    yield found(
        "NRM005",
        f"{total} {whose or 'input '}values are NaN or infinite ({share:.2%}), first in row {row}, "
        f"{view.column(feature)}",
        where=Where(module=view.column(feature)),
        evidence=Evidence(
            float(total), "values", threshold=0.0, n={"rows": profile.rows}, detail=f"in {view.listed(worst)}"
        ),
        means="one such value makes the loss and every weight NaN in a single step"
        if not whose
        else "whatever reads such a row answers NaN",
        fix="drop these rows or fill the gaps with the training median (np.nan_to_num hides the cause), "
        "before anything is normalised",
    )


def _constant(seen: Seen, view: View) -> Iterator[Finding]:
    """NRM004: features that never change."""
    import numpy as np

    moments = seen.inputs.moments
    fixed = np.flatnonzero((moments.low >= moments.high) & (moments.count > 0))
    if len(fixed) == 0:
        return
    value = float(moments.low[fixed[0]])
    every = len(fixed) == seen.inputs.features
    subject = "every feature is constant" if every else f"{len(fixed)} of {seen.inputs.features} features never change"
    yield found(
        "NRM004",
        f"{subject}: {view.listed(fixed)} (the first is always {value:.6g})",
        where=Where(module=view.column(int(fixed[0]))),
        evidence=Evidence(float(len(fixed)), "features", threshold=0.0, n={"rows": seen.inputs.rows}),
        means="a constant feature carries no information and cannot be divided by its standard deviation",
        fix="drop them, or leave them unscaled (sd 0 is replaced by 1 in sklearn's StandardScaler)",
        severity=Severity.WARNING if every else None,
    )


def examine_scale(view: View) -> Iterator[Observation]:
    """NRM001, NRM002 and NRM003: one finding per cause."""
    import numpy as np

    from nndiag.science.resampling import resampled

    profile = view.profile
    if profile.moments.count.max(initial=0) < 2:
        for code in ("NRM001", "NRM002", "NRM003"):
            yield Skip(code, "one row: no scale can be told")
        return
    columns = columns_of(profile, prepared=bool(view.note))
    judged = np.flatnonzero(columns.judged)
    yield from (Judged(code) for code in ("NRM001", "NRM002", "NRM003"))
    if len(judged) == 0 or len(profile.finite_sample) == 0:
        return
    mean, sd, rms = profile.moments.mean[judged], profile.moments.sd[judged], profile.moments.rms[judged]
    drawn = cache(lambda: resampled(profile.finite_sample, of=profile.rows))  # costly: for findings only
    vast = sd >= MAX_RATIO_BELOW * np.median(sd)  # rare events say little about scale, unless they dwarf all else
    mixed = _mixed(view, judged[~columns.sparse[judged] | vast], drawn)
    if mixed is None:
        mixed = _beside_flags(view, judged, columns, drawn)
    if mixed is not None:
        yield mixed
    pooled_sd, pooled_rms = _pooled(sd, mixed), _pooled(rms, mixed)
    ratio = np.abs(mean) / np.maximum(sd, 1e-300)
    away = (ratio >= MAX_OFFSET) & (np.abs(mean) >= MAX_SCALE)
    typical, centred = float(np.median(ratio)), False
    if mixed is None and (away.any() or typical >= MAX_OFFSET):
        chosen = away if away.any() else ratio >= MAX_OFFSET
        mostly = pooled_sd <= MAX_SCALE or pooled_rms > MAX_OFFSET * pooled_sd  # else NRM001 says what is large
        yield _offset(view, judged[chosen], drawn, loud=pooled_rms > MAX_SCALE and bool(mostly))
        pooled_rms, centred = pooled_sd, True  # the offset has its own finding
    norm = float(np.sqrt((profile.vectors**2).sum(axis=1).mean())) if len(profile.finite_sample) else 0.0
    if pooled_rms > MAX_SCALE or (pooled_rms < MIN_SCALE and norm < 0.5):

        def scale(mean: Array, sd: Array) -> Any:
            return _pooled(np.hypot(0.0 if centred else mean[:, judged], sd[:, judged]), mixed)

        yield _unscaled(view, float(pooled_rms), drawn().interval(scale, float(pooled_rms)))


def _pooled(values: Array, mixed: Finding | None) -> Any:
    """One scale for all features, the last axis; where they are mixed, one that nearly all of them exceed."""
    import numpy as np

    return np.sqrt((values**2).mean(axis=-1)) if mixed is None else np.quantile(values, 0.1, axis=-1)


def _unscaled(view: View, rms: float, interval: tuple[float, float]) -> Finding:
    """NRM001."""
    moments = view.profile.moments
    low, high = float(moments.low.min()), float(moments.high.max())
    called = range_name(view.profile)
    said = f" ({called})" if called else ""
    large = rms > MAX_SCALE
    factor, word = (rms, "larger") if large else (1 / max(rms, 1e-300), "smaller")
    return found(
        "NRM001",
        f"{view.what} run from {low:.4g} to {high:.4g}{said}: root mean square {rms:.4g}, {times(factor)}x {word} than "
        "what initialisation and learning-rate defaults assume",
        evidence=Evidence(
            rms,
            "",
            interval,
            threshold=MAX_SCALE if large else MIN_SCALE,
            n={"rows": view.profile.rows},
            detail="root mean square over all features",
        ),
        means=f"the first layer's curvature is {times(rms**2)}x that of unit inputs, its gradient {times(rms)}x",
        fix=cure_for(view.profile),
    )


def _offset(view: View, features: Any, drawn: Callable[[], Resampled], *, loud: bool) -> Finding:
    """NRM002."""
    moments = view.profile.moments
    ratios = abs(moments.mean[features]) / (moments.sd[features] + 1e-300)
    worst, ratio = features[ratios.argmax()], float(ratios.max())
    interval = drawn().interval(lambda mean, sd: abs(mean[:, worst]) / (sd[:, worst] + 1e-300), ratio)
    return found(
        "NRM002",
        f"{view.column(int(worst))} has mean {moments.mean[worst]:.4g} and sd {moments.sd[worst]:.4g}: the offset is "
        f"{ratio:.3g} standard deviations"
        + (f" ({len(features)} features are like that)" if len(features) > 1 else ""),
        where=Where(module=view.column(int(worst))),
        evidence=Evidence(ratio, "sd", interval, threshold=MAX_OFFSET, n={"rows": view.profile.rows}),
        means="a common offset makes one direction far steeper than the others (condition number 1 + d m²/s²): "
        "the learning rate must suit the offset and the features learn slowly",
        fix="subtract the training mean; " + cure_for(view.profile),
        severity=Severity.WARNING if loud else None,
    )


def _beside_flags(view: View, judged: Any, columns: Columns, drawn: Callable[[], Resampled]) -> Finding | None:
    """NRM003 where all but a few columns are zeros and ones, whose scale is known: half their range."""
    import numpy as np

    flags = int(np.count_nonzero(columns.binary))
    sd = view.profile.moments.sd[judged]
    odd = judged[sd >= MAX_RATIO * FLAG]
    if flags <= 2 * len(judged) or len(odd) == 0:
        return None
    top = int(odd[np.argmax(view.profile.moments.sd[odd])])
    value = float(view.profile.moments.sd[top]) / FLAG
    return found(
        "NRM003",
        f"features are on very different scales: {view.column(top)} has sd {value * FLAG:.4g} beside {flags} columns "
        f"of zeros and ones; {view.listed(odd)} exceeds their half range {times(value)}x",
        where=Where(module=view.column(top)),
        evidence=Evidence(
            value,
            "",
            drawn().interval(lambda _mean, sd: sd[:, top] / FLAG, value),
            threshold=MAX_RATIO,
            n={"rows": view.profile.rows, "features": view.profile.features},
            detail="sd of the outermost feature against half the range of a column of zeros and ones",
        ),
        means="one learning rate cannot suit them all: the large features decide the step and the flags hardly count",
        fix=cure_for(view.profile),
    )


def _mixed(view: View, features: Any, drawn: Callable[[], Resampled]) -> Finding | None:
    """NRM003."""
    import numpy as np

    if len(features) < 2:
        return None
    sd = view.profile.moments.sd[features]
    order = np.sort(sd)
    low_median, high_median = order[(len(order) - 1) // 2], order[len(order) // 2]
    high, low = order[-1] / low_median, high_median / max(order[0], 1e-300)
    if high < MAX_RATIO and low < MAX_RATIO_BELOW:
        return None
    big = high >= MAX_RATIO
    odd = features[(sd / low_median >= MAX_RATIO) if big else (high_median / sd >= MAX_RATIO_BELOW)]
    top, bottom = features[int(np.argmax(sd))], features[int(np.argmin(sd))]
    value = float(high if big else low)
    one = len(odd) == 1
    named = odd[0] if one else (top if big else bottom)

    def apart(_mean: Array, sd: Array) -> Array:
        typical = np.median(sd[:, features], axis=1)
        return sd[:, top] / typical if big else typical / np.maximum(sd[:, bottom], 1e-300)

    return found(
        "NRM003",
        f"features are on very different scales: {view.column(int(top))} has sd {sd.max():.4g}, "
        f"{view.column(int(bottom))} {sd.min():.4g}; {view.listed(odd)} "
        + (
            f"{'exceeds' if one else 'exceed'} the typical sd {times(value)}x"
            if big
            else f"{'is' if one else 'are'} {times(value)}x below the typical sd"
        ),
        where=Where(module=view.column(int(named))),
        evidence=Evidence(
            value,
            "",
            drawn().interval(apart, value),
            threshold=MAX_RATIO if big else MAX_RATIO_BELOW,
            n={"rows": view.profile.rows, "features": len(features)},
            detail="sd of the outermost feature against the median sd",
        ),
        means="one learning rate cannot suit them all: curvature goes with the square of the scale, so the large "
        "features decide the step and the small ones hardly learn",
        fix=cure_for(view.profile),
    )
