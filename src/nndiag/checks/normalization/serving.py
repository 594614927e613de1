"""Does serving prepare its inputs as training did? Named transforms first, drift only in what they leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.checks.normalization.drifted import examine_drift
from nndiag.checks.normalization.leak import leaked
from nndiag.checks.normalization.view import SPARSE
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Evidence, Fact, Finding, Judged, Measurement, Severity, Skip, Table, Where
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Observation, Scalar
    from nndiag.lab.scale import Seen
    from nndiag.science.moments import Array
    from nndiag.science.preprocessing_names import Change

PAIR_CODES = ("NRM006", "NRM007", "NRM008", "NRM009", "NRM010")
STRAIGHT = 0.98  # r² of the quantile-quantile line
FLAT, STRUCTURED = 3.0, 30.0  # variance of the mean image over what sampling leaves
MODE_APART = 0.1  # sd: the value that nearly all rows share is another one in serving
BIG_SHIFT, BIG_SCALE = 2.0, 2.0  # sd, factor: beyond ordinary drift


def examine_pair(train: Seen, serve: Seen, view: View) -> Iterator[Observation]:
    """NRM006 to NRM010."""
    import numpy as np

    mine, theirs = train.inputs, serve.inputs
    _must_match(train, serve)
    x, y = mine.finite_sample, theirs.finite_sample
    if len(x) < 2 or len(y) < 2:
        for code in PAIR_CODES:
            yield Skip(code, "fewer than two finite rows on one side")
        return
    if x.shape[2] != y.shape[2]:  # images of different sizes: no positions to compare
        keep = min(x.shape[2], y.shape[2])
        x, y = (part[:, :, np.linspace(0, part.shape[2] - 1, keep).round().astype(int)] for part in (x, y))
    yield from (Judged(code) for code in ("NRM006", "NRM007", "NRM008"))
    same_rows = mine.rows == theirs.rows and len(x) == len(y) and mine.shape == theirs.shape
    leaks = list(leaked(train, serve, view))
    verdict, change = _transform(train, serve, view, x, y)
    yield from leaks
    if verdict is not None and change is not None and not (change.exact or change.name) and _found(leaks):
        verdict = None  # the leak explains it
    if verdict is None and change is not None and change.kind == "identity" and same_rows and change.exact:
        yield Fact("serving", "equal", "serving rows equal training rows in effect")
    if verdict is not None:
        yield verdict
    yield from _rows(view, change, x, y)
    if _found(leaks):
        yield Skip("NRM010", "the statistics were not fitted on training alone; repair that first")
    else:
        yield from examine_drift(view, x, y, change, verdict)


def _found(observations: list[Observation]) -> bool:
    return any(isinstance(item, Finding) for item in observations)


def _must_match(train: Seen, serve: Seen) -> None:
    """Raise when the two sets cannot be compared at all."""
    mine, theirs = train.inputs, serve.inputs
    if mine.features != theirs.features:
        raise NndiagError(
            f"training rows have shape {mine.shape}, {mine.features} features; serving rows {theirs.shape}, "
            f"{theirs.features} features",
            hint="both sets need the same features in the same order; --feature-axis says which axis holds them",
        )


def _transform(train: Seen, serve: Seen, view: View, x: Array, y: Array) -> tuple[Finding | None, Change | None]:
    """The one finding about how the inputs are prepared, and the change behind it."""
    from nndiag.science.preprocessing_match import compare
    from nndiag.science.preprocessing_rows import per_sample, position_structure

    images = train.inputs.layout.kind == "images"
    mine, theirs = train.inputs.layout, serve.inputs.layout
    if images and mine.axis != theirs.axis and len(train.inputs.shape) == len(serve.inputs.shape):
        return _mismatch(
            view, None, f"training is {mine.text}, serving {theirs.text}: the axes are ordered differently"
        ), None
    own = (per_sample(x), per_sample(y))
    if own[0] != own[1]:
        side = "serving" if own[1] else "training"
        return _mismatch(
            view, None, f"{side} standardises every sample by its own mean and sd, the other side does not"
        ), None
    if images and x.shape[1:] == y.shape[1:] and max(_centre(x), _centre(y)) < 0.05:
        levels = position_structure(x), position_structure(y)
        if min(levels) < FLAT and max(levels) > STRUCTURED:
            side = "training" if levels[0] < levels[1] else "serving"
            return _mismatch(view, None, f"{side} subtracts the mean image, the other side a mean per channel"), None
    change = compare(x, y, images=images)
    if change is None or change.kind == "identity":
        return None, change
    return _named(view, change, x, y), change


def _centre(rows: Array) -> float:
    """Largest channel mean in standard deviations."""
    import numpy as np

    return float((np.abs(rows.mean(axis=(0, 2))) / np.maximum(rows.std(axis=(0, 2)), 1e-30)).max())


def _named(view: View, change: Change, x: Array, y: Array) -> Finding | None:
    """The finding for a change that was seen, or None where it may be ordinary drift."""
    if change.kind == "swap":
        return found(
            "NRM007",
            f"serving and training disagree about the order: {change.name}",
            evidence=_evidence(change, x, y),
            means="every filter reads another channel than the one it was trained on",
            fix="bring serving into training's order (OpenCV reads B, G, R: cv2.cvtColor(image, cv2.COLOR_BGR2RGB), or "
            "x = x[:, [2, 1, 0]])",
        )
    if change.kind == "twice" or "standardised twice" in change.name:
        return found(
            "NRM008",
            f"serving is normalised twice: {change.name}",
            evidence=_evidence(change, x, y),
            means="the model is fed values that it never saw: mean and spread are off by the normaliser itself",
            fix="remove one of the two (processor and loader both normalise, or a Normalization layer is in the model)",
        )
    if change.name:
        odd = _odd_columns(change, x, y)
        return _mismatch(view, change, change.name, (x, y), odd)
    odd = _odd_columns(change, x, y)
    if change.exact:
        return _mismatch(view, change, _affine_words(view, change, odd, x), (x, y), odd)
    if len(odd) and (_huge(change, (x, y)) or (_qq(x, y)[odd] >= STRAIGHT).all()):
        return _mismatch(view, change, _affine_words(view, change, odd, x), (x, y), odd)
    return None


def _odd_columns(change: Change, x: Array, y: Array) -> Array:
    """Features whose change is beyond ordinary drift (all that change, when rows were compared one by one)."""
    import numpy as np

    sd = np.maximum(x.std(axis=(0, 2)), 1e-30)
    moved = np.abs(change.offset + (change.slope - 1) * x.mean(axis=(0, 2))) / sd
    grown = np.abs(np.log(np.maximum(np.abs(change.slope), 1e-300)))
    if change.exact:
        return np.flatnonzero((moved > 2e-3) | (grown > 2e-3) | (change.slope < 0))
    modes = [(_commonest(x[:, j]), _commonest(y[:, j])) for j in range(x.shape[1])]
    steady = np.array([share < SPARSE for (_, share), _ in modes])  # rare events say little about scale
    apart = np.array([abs(one[0] - other[0]) for one, other in modes]) > MODE_APART * sd
    return np.flatnonzero((steady & ((moved > BIG_SHIFT) | (grown > np.log(BIG_SCALE)))) | (~steady & apart))


def _commonest(values: Array) -> tuple[float, float]:
    """The commonest value and its share."""
    import numpy as np

    flat = values.reshape(-1)
    seen, counts = np.unique(flat[:: max(1, len(flat) // 5000)], return_counts=True)
    return float(seen[counts.argmax()]), float(counts.max() / counts.sum())


def _qq(x: Array, y: Array) -> Array:
    """r² of each feature's quantile-quantile line."""
    import numpy as np

    from nndiag.science.drift import affine_unpaired

    flat = [np.moveaxis(rows, 1, 2).reshape(-1, rows.shape[1]) for rows in (x, y)]
    flat = [rows[:: max(1, len(rows) // 50_000)] for rows in flat]
    return np.nan_to_num(affine_unpaired(flat[0], flat[1]).r2, nan=1.0)


def _affine_words(view: View, change: Change, odd: Any, x: Array) -> str:
    """The map of the features that changed."""
    first = int(odd[0]) if len(odd) else 0
    slope, offset = float(change.slope[first]), float(change.offset[first])
    some = f"{view.listed(odd)}: " if len(odd) < len(change.slope) else ""
    about, digits = ("", 6) if change.exact else ("about ", 3)
    if abs(offset) < (1e-6 if change.exact else 0.1) * abs(slope) * max(float(x[:, first].std()), 1e-12):
        return f"{some}serving is {about}{slope:.{digits}g} times training"
    if slope == 1:
        return f"{some}serving is shifted by {about}{offset:+.{digits}g}"
    more = " (first feature)" if len(odd) > 1 else ""
    return f"{some}serving is {about}{slope:.{digits}g} times training {offset:+.{digits}g}{more}"


def _evidence(change: Change | None, x: Array, y: Array) -> Evidence:
    """The size of the change: the largest shift in training sd."""
    import numpy as np

    from nndiag.science.resampling import about, resampled

    floor = 1e-12 + 1e-9 * np.abs(x).max()
    gap = np.abs(y.mean(axis=(0, 2)) - x.mean(axis=(0, 2))) / np.maximum(x.std(axis=(0, 2)), floor)
    c = int(gap.argmax())
    before, after = resampled(x[:, c : c + 1]), resampled(y[:, c : c + 1], seed=1)
    drawn = np.abs(after.mean - before.mean) / np.maximum(before.sd, floor)
    how = "rows compared one by one or 8-bit lattices recognised" if change and change.exact else "means and spreads"
    return Evidence(
        float(gap[c]),
        "sd",
        about(float(gap[c]), drawn[:, 0]),
        n={"training rows": len(x), "serving rows": len(y)},
        detail=f"largest shift of a feature's mean; {how}",
    )


def _mismatch(
    view: View, change: Change | None, words: str, rows: tuple[Array, Array] | None = None, odd: Any = ()
) -> Finding:
    """NRM006."""
    scale = ""
    if change is not None and rows is not None:
        x, y = rows
        scale = f" (training mean {x.mean():.4g}, sd {x.std():.4g}; serving mean {y.mean():.4g}, sd {y.std():.4g})"
    few = change is not None and 0 < len(odd) < len(change.slope)
    evidence = _evidence(change, *rows) if rows is not None else Evidence(detail="from the values themselves")
    unsure = change is not None and not change.exact and not change.name and not _huge(change, rows)
    return found(
        "NRM006",
        f"{words}{scale}",
        where=Where(module=view.column(int(odd[0]))) if few else None,
        evidence=evidence,
        means="the model was trained on one preparation and is fed another: its answers in production are not those "
        "that were validated",
        fix="prepare both sides with one function and save its constants with the weights" + _repair(change),
        severity=Severity.WARNING if unsure else None,
    )


def _huge(change: Change, rows: tuple[Array, Array] | None) -> bool:
    """Whether the change is beyond what any drift does: tenfold, or ten standard deviations."""
    import numpy as np

    grown = float(np.abs(np.log(np.maximum(np.abs(change.slope), 1e-300))).max())
    if rows is None:
        return bool(grown > np.log(10))
    gap = np.abs(change.offset) / np.maximum(rows[0].std(axis=(0, 2)), 1e-9)
    return bool(grown > np.log(10) or gap.max() > 10)


def _repair(change: Change | None) -> str:
    """The map that brings serving back."""
    if change is None:
        return ""
    alike = len(set(change.slope.tolist())) == 1 and len(set(change.offset.tolist())) == 1
    if len(change.slope) > 4 and not alike:
        return ""
    slope = ", ".join(f"{value:.6g}" for value in change.slope)
    offset = ", ".join(f"{value:.6g}" for value in change.offset)
    if alike:
        slope, offset = slope.split(", ", maxsplit=1)[0], offset.split(", ", maxsplit=1)[0]
    return f"; until then serving needs (x - [{offset}]) / [{slope}]"


def _rows(view: View, change: Change | None, x: Array, y: Array) -> Iterator[Observation]:
    """The map per channel with its standard error, as measurements and a table."""
    if change is None or change.kind == "identity":
        return
    from nndiag.science.preprocessing_match import errors_of

    slope_se, offset_se = errors_of(x, y, change)
    rows: list[tuple[Scalar, ...]] = [
        (view.column(c), *map(float, (change.slope[c], slope_se[c], change.offset[c], offset_se[c])), view.column(k))
        for c, k in enumerate(change.order[:64])
    ]
    yield Table("serving = slope x training + offset", ("serving", "slope", "se", "offset", "se ", "from"), rows)
    for name, value, error in (
        ("serving_slope", change.slope[0], slope_se[0]),
        ("serving_offset", change.offset[0], offset_se[0]),
    ):
        reach = 1.96 * float(error)
        yield Measurement(name, float(value), "", view.column(0), (float(value) - reach, float(value) + reach))
