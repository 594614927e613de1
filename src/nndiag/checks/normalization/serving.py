"""Does serving prepare its inputs as training did? Named transforms first, drift only in what they leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.checks.normalization.alone import spoiled
from nndiag.checks.normalization.drifted import examine_drift
from nndiag.checks.normalization.leak import leaked
from nndiag.checks.normalization.mismatch import affine_words, huge, map_table, mismatch, size_of
from nndiag.checks.normalization.view import SPARSE
from nndiag.core.errors import NndiagError
from nndiag.core.findings import Fact, Finding, Judged, Severity, Skip
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Observation
    from nndiag.lab.scale import Seen
    from nndiag.science.moments import Array
    from nndiag.science.preprocessing_names import Change

PAIR_CODES = ("NRM006", "NRM007", "NRM008", "NRM009", "NRM010")
STRAIGHT = 0.98  # r² of the quantile-quantile line
FLAT, STRUCTURED = 3.0, 30.0  # variance of the mean image over what sampling leaves
MODE_APART = 0.1  # sd: the value that nearly all rows share is another one in serving
GREY = 0.999  # correlation of R with B
BIG_SHIFT, BIG_SCALE = 2.0, 1.75  # sd, factor: beyond ordinary drift


def examine_pair(train: Seen, serve: Seen, view: View) -> Iterator[Observation]:
    """NRM006 to NRM010."""
    import numpy as np

    mine, theirs = train.inputs, serve.inputs
    _must_match(train, serve)
    x, y = mine.finite_sample, theirs.finite_sample
    yield from spoiled(serve, view)
    if len(x) < 2 or len(y) < 2:
        for code in PAIR_CODES:
            yield Skip(code, "fewer than two finite rows on one side")
        return
    if x.shape[2] != y.shape[2]:  # images of different sizes: no positions to compare
        keep = min(x.shape[2], y.shape[2])
        x, y = (part[:, :, np.linspace(0, part.shape[2] - 1, keep).round().astype(int)] for part in (x, y))
    yield from (Judged(code) for code in ("NRM006", "NRM008"))
    same_rows = mine.rows == theirs.rows and len(x) == len(y) and mine.shape == theirs.shape
    leaks = list(leaked(train, serve, view))
    verdict, change = _transform(train, serve, view, x, y)
    yield from _ordered(train, x, y, change)
    yield from leaks
    if verdict is not None and change is not None and not (change.exact or change.name) and _found(leaks):
        verdict = None  # the leak explains it
    if verdict is None and change is not None and change.kind == "identity" and same_rows and change.exact:
        yield Fact("serving", "equal", "serving rows equal training rows in effect")
    if verdict is not None:
        yield verdict
    yield from map_table(view, change, x, y)
    if _found(leaks):
        yield Skip("NRM010", "the statistics were not fitted on training alone; repair that first")
    else:
        yield from examine_drift(view, x, y, change, verdict)


def _ordered(train: Seen, x: Array, y: Array, change: Change | None) -> Iterator[Observation]:
    """Whether the order of the channels was judged: unpaired greyish images hide it."""
    from nndiag.science.preprocessing_order import VISIBLE, order_of

    told = change is not None and (change.exact or change.kind == "swap")
    if told or train.inputs.layout.kind != "images" or x.shape[1] != 3:
        yield Judged("NRM007")
        return
    order = order_of(x, y)
    if order is not None and order.visible:
        yield Judged("NRM007")
        return
    power = f"a swap would show with a chi-square of {order.power:.3g}, {VISIBLE:g} is needed" if order else "too few"
    yield Skip("NRM007", f"R and B are too alike in {len(x)} and {len(y)} unpaired images to tell them apart: {power}")


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
    from nndiag.science.preprocessing_rows import per_sample, position_structure

    images = train.inputs.layout.kind == "images"
    mine, theirs = train.inputs.layout, serve.inputs.layout
    if images and mine.axis != theirs.axis and len(train.inputs.shape) == len(serve.inputs.shape):
        return mismatch(
            view, None, f"training is {mine.text}, serving {theirs.text}: the axes are ordered differently"
        ), None
    own = (per_sample(x), per_sample(y))
    if own[0] != own[1]:
        side = "serving" if own[1] else "training"
        return mismatch(
            view, None, f"{side} standardises every sample by its own mean and sd, the other side does not"
        ), None
    if images and x.shape[1:] == y.shape[1:] and max(_centre(x), _centre(y)) < 0.05:
        levels = position_structure(x), position_structure(y)
        if min(levels) < FLAT and max(levels) > STRUCTURED:
            side = "training" if levels[0] < levels[1] else "serving"
            return mismatch(view, None, f"{side} subtracts the mean image, the other side a mean per channel"), None
    if (y.max(axis=(0, 2)) == y.min(axis=(0, 2))).all() and (x.max(axis=(0, 2)) > x.min(axis=(0, 2))).any():
        return mismatch(view, None, f"serving never changes: its first feature is always {y[0, 0, 0]:.6g}"), None
    return prepared_otherwise(view, x, y, images=images)


def prepared_otherwise(view: View, x: Array, y: Array, *, images: bool) -> tuple[Finding | None, Change | None]:
    """What one look at the numbers says: an affine map, a curve, or a value that fills gaps."""
    from nndiag.science.preprocessing_match import compare

    change = compare(x, y, images=images)
    other = _otherwise(view, x, y, change)
    if other is not None:
        return other, None
    if change is None or change.kind == "identity":
        return None, change
    return _named(view, change, x, y), change


def _otherwise(view: View, x: Array, y: Array, change: Change | None) -> Finding | None:
    """What is no affine map and has a name all the same."""
    from nndiag.science.preprocessing_curves import curve
    from nndiag.science.preprocessing_doubt import filler
    from nndiag.science.preprocessing_rows import one_image_added
    from nndiag.science.preprocessing_scaled import scaled_curve

    if one_image_added(x, y):
        words = "each row of serving is the row of training plus one and the same image: a mean image on one side"
        return mismatch(view, None, f"{words}, a mean per channel on the other", (x, y))
    if change is not None and change.exact:
        return None
    bent = curve(x, y)
    if bent is not None:
        return mismatch(view, None, bent, (x, y))
    scaled = scaled_curve(x, y)
    if scaled is not None:
        one, other = ("training", "serving") if scaled.training else ("serving", "training")
        of = "" if len(scaled.features) == x.shape[1] else f" (of {view.listed(scaled.features)})"
        return mismatch(view, None, f"{one} takes {scaled.name}{of} and standardises, {other} does neither", (x, y))
    filled = filler(x, y)
    if filled is None:
        return None
    column, value, share = filled
    words = f"{view.column(column)}: {share:.2%} of the serving rows hold {value:.6g}, far outside training"
    return mismatch(view, None, f"{words} (missing values are filled otherwise)", (x, y))


def _centre(rows: Array) -> float:
    """Largest channel mean in standard deviations."""
    import numpy as np

    return float((np.abs(rows.mean(axis=(0, 2))) / np.maximum(rows.std(axis=(0, 2)), 1e-30)).max())


def _named(  # noqa: PLR0911 - one return for each name
    view: View, change: Change, x: Array, y: Array
) -> Finding | None:
    """The finding for a change that was seen, or None where it may be ordinary drift."""
    from nndiag.science.preprocessing_doubt import supported

    if change.kind == "swap":
        return found(
            "NRM007",
            f"serving and training disagree about the order: {change.name}"
            + (", or the constants were: on greyish images the two are one" if _greyish(x) else ""),
            evidence=size_of(change, x, y),
            means="every filter reads another channel than the one it was trained on"
            + ("" if change.sure else " (told from colours: light that turned from warm to cold would look alike)"),
            fix="bring serving into training's order (OpenCV reads B, G, R: cv2.cvtColor(image, cv2.COLOR_BGR2RGB), or "
            "x = x[:, [2, 1, 0]])",
            severity=None if change.sure else Severity.WARNING,
        )
    if change.kind == "twice" or "standardised twice" in change.name:
        return found(
            "NRM008",
            f"serving is normalised twice: {change.name}",
            evidence=size_of(change, x, y),
            means="the model is fed values that it never saw: mean and spread are off by the normaliser itself",
            fix="remove one of the two (processor and loader both normalise, or a Normalization layer is in the model)",
        )
    odd = _odd_columns(change, x, y)
    if not change.exact:
        borne = supported(x, y, change)
        odd = odd[borne[odd]]
        if borne.mean() < 0.5 if change.name else not len(odd):
            return None
    if change.name:
        return mismatch(view, change, change.name, (x, y), odd)
    if change.exact:
        return mismatch(view, change, affine_words(view, change, odd, x), (x, y), odd)
    if len(odd) and (huge(change, (x, y)) or (_qq(x, y)[odd] >= STRAIGHT).all()):
        return mismatch(view, change, affine_words(view, change, odd, x), (x, y), odd)
    return None


def _greyish(x: Array) -> bool:
    """Whether the channels carry one picture each, so that swapped constants look like swapped channels."""
    import numpy as np

    flat = x.swapaxes(0, 1).reshape(x.shape[1], -1)[:, :50_000]
    return bool(np.abs(np.corrcoef(flat)[0, -1]) > GREY)


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
