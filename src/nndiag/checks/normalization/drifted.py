"""Have the serving data drifted, once a known transform has been undone?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.core.findings import Evidence, Judged, Measurement, Severity, Skip, Where
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.normalization.view import View
    from nndiag.core.findings import Finding, Observation
    from nndiag.science.moments import Array
    from nndiag.science.preprocessing_names import Change

ALARM = 0.001  # family-wise
EFFECT = 0.06  # KS distance that is worth a word: 0.15 sd of a Gaussian
PARTS, FEATURES = 5, 32  # consecutive parts of training, and features in which they are compared
LIKE = 2 / 3  # share of the distance to serving that parts of training must show
FEWEST = 20  # rows on each side below which nothing is said about drift


def examine_drift(
    view: View, x: Array, y: Array, change: Change | None, verdict: Finding | None
) -> Iterator[Observation]:
    """NRM010, after a known transform has been undone."""
    import numpy as np

    from nndiag.science.drift import two_sample
    from nndiag.science.preprocessing_match import undo

    why = _why_not(min(len(x), len(y)), change, verdict)
    if why:
        yield Skip("NRM010", why)
        return
    if verdict is not None and change is not None:
        y = undo(y, change)
    yield Judged("NRM010")
    before, after = _features(x), _features(y)
    result = two_sample(before, after)
    yield Measurement("psi_largest", float(result.psi.max()), "nats")
    yield Measurement("ks_largest", float(result.ks.max()), "")
    hit = np.flatnonzero((result.adjusted < ALARM) & (result.ks >= EFFECT))
    if len(hit) == 0:
        return
    worst = int(hit[np.argmax(result.ks[hit])])
    channels = x.shape[1]
    place, stat = (
        view.column(worst % channels),
        "" if before.shape[1] == channels else ("mean of ", "sd of ")[worst // channels],
    )
    own = _wandering(before, hit, result.ks)
    calm = bool((own >= LIKE * result.ks[hit]).all())
    band = 1.358 * (1 / len(x) + 1 / len(y)) ** 0.5  # 95 % of distances lie so close to the true one (Kolmogorov)
    distance = float(result.ks[worst])
    yield found(
        "NRM010",
        f"serving has drifted in {len(hit)} of {before.shape[1]} features, most in {stat}{place}: KS distance "
        f"{distance:.3g}, PSI {result.psi[worst]:.3g}",
        where=Where(module=place),
        evidence=Evidence(
            distance,
            "KS distance",
            (max(distance - band, 0.0), min(distance + band, 1.0)),
            threshold=EFFECT,
            n={"training rows": len(x), "serving rows": len(y)},
            detail=f"Holm-adjusted p = {result.adjusted[worst]:.2g} (alarm below {ALARM}); means "
            f"{before[:, worst].mean():.4g} and {after[:, worst].mean():.4g}",
        ),
        means="serving data come from another distribution than the training data; no simple transform explains it"
        if not calm
        else "parts of the training rows differ as much from the rest (rows in groups, or over time): serving is one "
        f"more such part (KS distance up to {own.max():.3g} within training)",
        severity=Severity.NOTE if calm else None,
        fix="look at the feature's source; retrain or reweight on recent data, or normalise with statistics of the "
        "domain that is served",
    )


def _why_not(rows: int, change: Change | None, verdict: Finding | None) -> str:
    """Why drift cannot be told from what is wrong already."""
    if rows < FEWEST:
        return f"fewer than {FEWEST} rows on one side: no drift can be told from chance"
    if verdict is None:
        return ""
    if change is None:
        return "the sets are prepared differently; repair that first"
    if change.kind == "swap" and not change.exact:
        return "the channels are swapped; repair that first"
    if not (change.exact or change.name) or "about" in change.name or "standardised" in change.name:
        return "the sets are prepared differently by a map that is only known roughly"
    return ""


def _wandering(before: Array, hit: Array, ks: Array) -> Array:
    """How far parts of training are from the rest, for each feature that drifted; 0 where they are not at all.

    Rows that come in groups or over time are not independent: the split then differs from training as training's own
    consecutive parts differ from one another. Shuffled rows show nothing of the kind.
    """
    import numpy as np

    from nndiag.science.drift import two_sample

    own = np.zeros(len(hit))
    if len(before) < PARTS * FEWEST:
        return own
    looked = np.argsort(-ks[hit])[:FEATURES]
    for part in np.array_split(np.arange(len(before)), PARTS):
        rest = np.setdiff1d(np.arange(len(before)), part)
        seen = two_sample(before[rest][:, hit[looked]], before[part][:, hit[looked]])
        sure = seen.adjusted * PARTS < ALARM
        own[looked] = np.maximum(own[looked], np.where(sure, seen.ks, 0.0))
    return own if len(looked) == len(hit) else np.where(own > 0, own, own[looked].min())


def _features(rows: Array) -> Array:
    """One number per row and feature, so that rows are independent: values, or mean and sd over positions."""
    import numpy as np

    if rows.shape[2] == 1:
        return rows[:, :, 0]
    return np.concatenate([rows.mean(axis=2), rows.std(axis=2)], axis=1)
