"""Are the targets that serving is judged by numbered and scaled as those that training learned from?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nndiag.checks.normalization.drifted import ALARM, EFFECT
from nndiag.checks.normalization.serving import prepared_otherwise
from nndiag.checks.normalization.view import View
from nndiag.core.findings import Evidence, Fact, Judged, Severity, Where
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.core.findings import Finding, Observation
    from nndiag.lab.scale import Seen
    from nndiag.lab.scale_targets import Targets
    from nndiag.science.moments import Array
    from nndiag.science.target_match import Renumbered

IGNORED = (-100, -1, 255)  # what losses are told to pass over
FEW, REPEATED = 200, 3  # real numbers that occur: so few, and so often on average, are classes or grades
LISTED = 6
NOWHERE = 0.9  # share of serving that holds values which training never had
SAME = 0.99  # share of equal rows whose targets must agree
WHOLLY = 0.9  # of training's own rate: numbers are then beyond doubt
MEANS = (
    "a loss or an accuracy on these targets says nothing about the model: its answers come in training's numbers, and "
    "whoever reads them by serving's takes one thing for another"
)
FIX = (
    "fit the label encoder, or the targets' scaler, on training once, save it with the weights and use it on both "
    "sides (class_to_idx of ImageFolder; LabelEncoder.transform, never fit_transform again)"
)


def examine_served_targets(train: Seen, serve: Seen, *, regression: bool | None) -> Iterator[Observation]:
    """NRM006 and NRM010 of the targets; nothing where one side has none.

    `regression` says whether the loss compares numbers, None where it is not known.
    """
    mine, theirs = train.targets, serve.targets
    if mine is None or theirs is None or min(mine.moments.count[0], theirs.moments.count[0]) < 2:
        return
    if _width(mine) != _width(theirs):
        said = (
            f"targets not compared with serving's: {mine.shape or '()'} in training, {theirs.shape or '()'} in serving"
        )
        yield Fact("serving_targets", "not compared", said)
        return
    yield from (Judged(code) for code in ("NRM006", "NRM010"))
    if _graded(mine) and _graded(theirs):
        told = _valued(mine, theirs, regression=regression) or _rows_apart(train, serve, regression=regression)
    elif _graded(mine) != _graded(theirs):
        told = _of_another_kind(mine, theirs)
    else:
        told = _scaled(train, mine, theirs)
    if told is not None:
        yield told


def _width(one: Targets) -> int:
    size = 1
    for axis in one.shape:
        size *= axis
    return size if len([axis for axis in one.shape if axis != 1]) < 2 else -len(one.shape)  # maps may differ in size


def _graded(one: Targets) -> bool:
    """Whether a few values occur again and again: class ids, ratings, masks."""
    if one.distinct is None:
        return False
    return not one.floating or (len(one.distinct) <= FEW and sum(one.counts) >= REPEATED * len(one.distinct))


def _counted(one: Targets) -> tuple[Array, Array]:
    import numpy as np

    return np.asarray(one.distinct, dtype=np.float64), np.asarray(one.counts, dtype=np.float64)


def _valued(mine: Targets, theirs: Targets, *, regression: bool | None) -> Finding | None:
    """What the values that occur say: a map from one set of them onto the other, or values that are new."""
    from nndiag.science.target_match import moved, unseen

    (values, counts), (others, other_counts) = _counted(mine), _counted(theirs)
    new = unseen((values, counts), (others, other_counts))
    if new.rows == 0:
        return None
    total = int(other_counts.sum())
    share = new.rows / total
    sides = f"training holds {_listed(values)}, serving {_listed(others)}"
    n = {"training targets": int(counts.sum()), "serving targets": total}
    change = moved(values, others)
    name = "" if change is None else _named(*change, whole=not mine.floating, pair=len(values) == 2)
    if name:
        return _mismatch(
            f"{name}: {sides}",
            Evidence(
                share,
                "share",
                threshold=0.0,
                n=n,
                detail="share of serving's targets that are none of training's values",
            ),
        )
    if new.p > ALARM or regression or set(new.values.tolist()) <= set(IGNORED):
        return None
    if len(values) > FEW and _width(mine) != 1:
        return None  # tokens of a text: new ones come with new texts
    some = f"{len(new.values)} of serving's {len(others)} target values never occur in training"
    return found(
        "NRM010",
        f"{some} ({_listed(new.values)}; {share:.2%} of its targets): {sides}",
        where=Where(module="targets"),
        evidence=Evidence(
            share,
            "share",
            threshold=0.0,
            n=n,
            detail=f"p = {new.p:.2g} (alarm below {ALARM}) where rare values alone may bring new ones",
        ),
        means="no answer of this model can be one of them: classes were numbered otherwise, or are new (a split by "
        "class, as in metric learning, is made so)",
        fix=FIX,
    )


def _named(slope: float, offset: float, *, whole: bool, pair: bool) -> str:
    """What people call this change of a few values; nothing where new classes would look alike."""
    from nndiag.science.preprocessing_names import COMMON

    if abs(slope - 1) < 1e-9:
        if abs(offset) == 1:
            return f"serving's targets are training's {offset:+g}: numbered from another start"
        return "" if whole and offset == round(offset) else f"serving's targets are training's {offset:+.6g}"
    for known, constant, words in COMMON:
        if abs(slope / known - 1) < 1e-4 and abs(offset - constant) < 1e-4 * abs(slope):
            return f"targets: {words}"
    if whole and pair:
        return ""
    shift = f" {offset:+.6g}" if abs(offset) > 1e-6 * abs(slope) else ""
    return f"serving's targets are {slope:.6g} times training's{shift}"


def _of_another_kind(mine: Targets, theirs: Targets) -> Finding | None:
    """Classes on one side, real numbers on the other: only where no class is left among them."""
    graded, other = (mine, theirs) if _graded(mine) else (theirs, mine)
    values, _ = _counted(graded)
    import numpy as np

    if not other.floating or len(values) > FEW or np.isin(other.sample, values).mean() > 1 - NOWHERE:
        return None
    side = "serving" if graded is mine else "training"
    return _mismatch(
        f"targets are {_listed(values)} on one side and real numbers in {side} (mean {other.moments.mean[0]:.4g}, sd "
        f"{other.moments.sd[0]:.4g})",
        Evidence(n={"training targets": int(mine.moments.count[0]), "serving targets": int(theirs.moments.count[0])}),
        Severity.WARNING,
    )


def _rows_apart(train: Seen, serve: Seen, *, regression: bool | None) -> Finding | None:
    """The same values, given to other rows: told by rows that are the same, else by what the classes look like."""
    import numpy as np

    from nndiag.lab.scale import kept_targets
    from nndiag.science.target_match import renumbered

    first, second = kept_targets(train), kept_targets(serve)
    if first is None or second is None:
        return None
    (x, y), (other_x, other_y) = first, second
    if x.shape == other_x.shape and (x == other_x).all() and len({row.tobytes() for row in x}) > len(x) / 2:
        return _same_rows_apart(y, other_y)
    whole = all((part == np.round(part)).all() for part in (y, other_y))
    if regression or not whole or x.shape[1:] != other_x.shape[1:] or len(np.unique(y)) > FEW:
        return None
    flat = [rows.reshape(len(rows), -1) for rows in (x, other_x)]
    told = renumbered(flat[0], y.astype(int), flat[1], other_y.astype(int))
    return None if told is None else _renumbered(told, (len(x), len(other_x)))


def _same_rows_apart(y: Array, other: Array) -> Finding | None:
    """The same rows with other targets."""
    import numpy as np

    apart = float((y != other).mean())
    if apart <= 1 - SAME:
        return None
    n = {"rows": len(y)}
    evidence = Evidence(apart, "share", threshold=1 - SAME, n=n, detail="share of equal rows whose targets differ")
    becomes = {value: np.unique(other[y == value]) for value in np.unique(y)}
    one_each = all(len(seen) == 1 for seen in becomes.values())
    if one_each and len({seen[0] for seen in becomes.values()}) == len(becomes):
        pairs = [(a, seen[0]) for a, seen in becomes.items() if a != seen[0]]
        said = ", ".join(f"{a:g} is {b:g}" for a, b in pairs[:LISTED]) + (" …" if len(pairs) > LISTED else "")
        return _mismatch(f"the classes are numbered otherwise in serving, on the same rows: {said}", evidence)
    return _mismatch(
        f"{apart:.1%} of the rows that both sets share have another target in serving", evidence, Severity.WARNING
    )


def _renumbered(told: Renumbered, rows: tuple[int, int]) -> Finding:
    pairs = ", ".join(f"{called} looks like {alike}" for called, alike in told.pairs[:LISTED])
    return _mismatch(
        f"the classes are numbered otherwise in serving: {pairs}{' …' if len(told.pairs) > LISTED else ''}",
        Evidence(
            told.kept,
            "share",
            threshold=told.rate,
            n={"training rows": rows[0], "serving rows": rows[1]},
            detail=f"a linear classifier of training's rows is right for {told.known:.1%} of held-out ones, for "
            f"{told.kept:.1%} of serving's as they are numbered and for {told.rate:.1%} numbered as told here",
        ),
        None if told.rate >= WHOLLY * told.known else Severity.WARNING,
    )


def _scaled(train: Seen, mine: Targets, theirs: Targets) -> Finding | None:
    """Real-valued targets: the map between them where it has a name or is huge, else a drift, which is a note."""
    import numpy as np

    from nndiag.science.drift import two_sample

    width = max(1, _width(mine))
    x, y = (_columns(one, width) for one in (mine, theirs))
    if min(len(x), len(y)) < 2:
        return None
    names = ("the targets",) if width == 1 else tuple(f"target {k}" for k in range(width))
    told, _ = prepared_otherwise(View(train.inputs, columns=names), x[:, :, None], y[:, :, None], images=False)
    if told is not None:
        return replace(told, message=f"targets: {told.message}", where=Where(module="targets"), means=MEANS, fix=FIX)
    if min(len(x), len(y)) < 20:
        return None
    drift = two_sample(x, y)
    hit = np.flatnonzero((drift.adjusted < ALARM) & (drift.ks >= EFFECT))
    if len(hit) == 0:
        return None
    worst = int(hit[np.argmax(drift.ks[hit])])
    return found(
        "NRM010",
        f"serving's targets are distributed otherwise than training's: {names[worst]}, KS distance "
        f"{drift.ks[worst]:.3g} (means {x[:, worst].mean():.4g} and {y[:, worst].mean():.4g})",
        where=Where(module="targets"),
        evidence=Evidence(
            float(drift.ks[worst]),
            "KS distance",
            threshold=EFFECT,
            n={"training rows": len(x), "serving rows": len(y)},
            detail=f"Holm-adjusted p = {drift.adjusted[worst]:.2g} (alarm below {ALARM})",
        ),
        means="other cases are served than were trained on, or they are measured otherwise; a loss on serving is not "
        "that of validation",
        fix="look at where the targets come from",
        severity=Severity.NOTE,
    )


def _columns(one: Targets, width: int) -> Array:
    """(rows, width) of the kept values, the finite rows."""
    import numpy as np

    rows = one.sample[: len(one.sample) // width * width].reshape(-1, width)
    return np.asarray(rows[np.isfinite(rows).all(axis=1)])


def _listed(values: Array) -> str:
    """The values, or their ends."""
    import numpy as np

    whole = bool((values == np.round(values)).all())
    if whole and len(values) > 2 and (np.diff(values) == 1).all():
        return f"{values[0]:g} to {values[-1]:g}"
    if len(values) <= LISTED:
        return ", ".join(f"{value:.6g}" for value in values)
    return f"{values[0]:.6g}, {values[1]:.6g} … {values[-1]:.6g}"


def _mismatch(words: str, evidence: Evidence, severity: Severity | None = None) -> Finding:
    """NRM006 of the targets."""
    return found(
        "NRM006", words, where=Where(module="targets"), evidence=evidence, means=MEANS, fix=FIX, severity=severity
    )
