"""What is said about a change of preparation: its words, its size, the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.core.findings import Evidence, Measurement, Severity, Table, Where
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Finding, Observation, Scalar
    from nndiag.science.moments import Array
    from nndiag.science.preprocessing_names import Change


def affine_words(view: View, change: Change, odd: Any, x: Array) -> str:
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


def size_of(change: Change | None, x: Array, y: Array) -> Evidence:
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


def mismatch(
    view: View, change: Change | None, words: str, rows: tuple[Array, Array] | None = None, odd: Any = ()
) -> Finding:
    """NRM006."""
    scale = ""
    if change is not None and rows is not None:
        x, y = rows
        scale = f" (training mean {x.mean():.4g}, sd {x.std():.4g}; serving mean {y.mean():.4g}, sd {y.std():.4g})"
    few = change is not None and 0 < len(odd) < len(change.slope)
    evidence = size_of(change, *rows) if rows is not None else Evidence(detail="from the values themselves")
    unsure = change is not None and not change.exact and not change.name and not huge(change, rows)
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


def huge(change: Change, rows: tuple[Array, Array] | None) -> bool:
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


def map_table(view: View, change: Change | None, x: Array, y: Array) -> Iterator[Observation]:
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
