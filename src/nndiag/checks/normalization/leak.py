"""Were the statistics fitted where they must not be? Statistics that are too good to be true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.core.findings import Evidence, Judged, Measurement, Skip
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Finding, Observation
    from nndiag.lab.scale import Seen
    from nndiag.science.moments import Array, Moments
    from nndiag.science.moments_profile import Profile

SHARP = 1e-4  # float32 pipelines leave means of 1e-7 to 1e-5
CHANCE = 1e-6
RANGE = 1e-6  # distance from 0 or 1 that counts as being there
MOST = 0.9  # share of the features that must end at 0 and 1
ENDS_CHANCE = 1e-4


def leaked(train: Seen, serve: Seen, view: View) -> Iterator[Observation]:
    """NRM009."""
    from nndiag.science.drift import too_close
    from nndiag.science.moments import merge
    from nndiag.science.preprocessing_rows import per_sample

    mine, theirs = train.inputs, serve.inputs
    if min(mine.rows, theirs.rows) < 10:
        yield Skip("NRM009", "fewer than 10 rows on one side")
        return
    x, y = mine.finite_sample, theirs.finite_sample
    if per_sample(x) or per_sample(y):
        yield Skip("NRM009", "samples are standardised one by one, which leaks nothing")
        return
    if _same_rows(mine, theirs):
        yield Skip("NRM009", "both sets are the same rows")
        return
    yield Judged("NRM009")
    first, second = x.mean(axis=2), y.mean(axis=2)
    value, chance = too_close(first, second)
    yield Measurement("split_statistic", value, "")
    ready = _sharp(mine.moments)  # the columns that training standardised: flags beside them are left as they are
    ready &= theirs.moments.sd > 1e-6
    both = bool(ready.any() and _sharp(theirs.moments)[ready].all())
    if both and _exact_chance(theirs.moments, ready) < CHANCE:
        yield _leak(view, "each split was standardised with its own mean and sd", _whole(mine, theirs), (mine, theirs))
        return
    pooled = merge(mine.moments, theirs.moments)
    if _standard(pooled) and not _standard(mine.moments) and _exact_chance(pooled, pooled.sd > 1e-6) < CHANCE:
        yield _leak(
            view, "mean and sd were fitted on training and serving rows together", (0.0, chance), (mine, theirs)
        )
        return
    ends = _own_range(mine, theirs)
    if ends is not None and ends < ENDS_CHANCE:
        yield _leak(
            view, "each split was scaled to [0, 1] by its own minimum and maximum", (value, ends), (mine, theirs)
        )


def _same_rows(mine: Profile, theirs: Profile) -> bool:
    """Whether both sets hold the same values, perhaps with rows or features in another order."""
    import numpy as np

    x, y = mine.finite_sample, theirs.finite_sample
    if mine.rows != theirs.rows or x.shape != y.shape:
        return False
    ends = [np.sort(np.stack([side.moments.low, side.moments.high]), axis=1) for side in (mine, theirs)]
    return bool((x == y).all() or (len(x) == mine.rows and (ends[0] == ends[1]).all()))


def _standard(moments: Moments) -> bool:
    """Whether mean 0 and sd 1 hold to the last digits in every varying feature."""
    varying = moments.sd > 1e-6
    return bool(varying.any() and _sharp(moments)[varying].all())


def _sharp(moments: Moments) -> Array:
    """In which features mean 0 and sd 1 (ddof 0 or 1) hold to the last digits."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        other = moments.sd * np.sqrt(moments.count / (moments.count - 1))
    one = (np.abs(moments.sd - 1) < SHARP) | (np.abs(other - 1) < SHARP)
    return np.asarray((np.abs(moments.mean) < SHARP) & one)


def _exact_chance(moments: Moments, features: Array) -> float:
    """How likely an honest set of this size has means and spreads this sharp in these features."""
    from scipy import special

    error = 1 / moments.count[features] ** 0.5
    inside = special.ndtr(SHARP / error) - special.ndtr(-SHARP / error)  # for the mean; the sd is as sharp
    return float((inside**2).prod())


def _whole(mine: Profile, theirs: Profile) -> tuple[float, float]:
    """T over all rows, from the moments, and its chance."""
    import numpy as np
    from scipy import special

    varying = (mine.moments.sd > 1e-6) & (theirs.moments.sd > 1e-6)
    gap = (theirs.moments.mean - mine.moments.mean)[varying] / mine.moments.sd[varying]
    value = float((gap**2 / (1 / theirs.moments.count[varying] + 1 / mine.moments.count[varying])).sum())
    return value, float(special.chdtr(int(np.count_nonzero(varying)), value))


def _own_range(mine: Profile, theirs: Profile) -> float | None:
    """The chance that honest serving rows end at exactly 0 and 1 as the training rows do; None where they do not.

    Training's own ends are 0 and 1 by construction. A serving row lies on one of them as often as training rows do:
    once in n for a continuous feature, often for one with natural bounds, which therefore proves nothing.
    """
    import numpy as np

    if mine.layout.kind == "images":
        return None
    ends = [(np.abs(one.moments.low) < RANGE) & (np.abs(one.moments.high - 1) < RANGE) for one in (mine, theirs)]
    if min(one.mean() for one in ends) < MOST:
        return None
    x = mine.finite_sample[:, ends[0] & ends[1]]
    share = [np.maximum(part.any(axis=2).mean(axis=0), 1 / mine.rows) for part in (x <= RANGE, x >= 1 - RANGE)]
    return float(np.prod([1 - (1 - one) ** theirs.rows for one in share]))


def _leak(view: View, words: str, statistic: tuple[float, float], sides: tuple[Profile, Profile]) -> Finding:
    """NRM009."""
    from scipy import special

    value, chance = statistic
    return found(
        "NRM009",
        f"{words}: too good to be true over {len(sides[0].moments.mean)} features",
        evidence=Evidence(
            value,
            "",
            threshold=float(special.chdtri(len(sides[0].moments.mean), 0.99)),
            n={"training rows": sides[0].rows, "serving rows": sides[1].rows},
            detail=f"T = sum of squared mean differences over their errors; an honest split gives about "
            f"{len(sides[0].moments.mean)}, below the threshold in 1 %; what was found has probability {chance:.2g}",
        ),
        means="a split standardised by itself hides any shift and cannot be repeated on a single sample in production; "
        "statistics that include test rows make the test optimistic",
        fix=f"fit the scaler on the training rows only and apply it to both ({view.what}): "
        "scaler.fit(train); scaler.transform(test), never fit_transform(test)",
    )
