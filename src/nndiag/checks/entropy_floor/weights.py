"""ENT007: class weights move the optimum of soft labels, from q to w q / sum(w q)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np  # noqa: TID253 - imported late, by the check

from nndiag.checks.entropy_floor.layout import BINARY, IDS
from nndiag.checks.entropy_floor.words import num, percent
from nndiag.core.findings import Evidence, Measurement, Severity
from nndiag.core.rules import found
from nndiag.science.entropy import one_hot, targets_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.entropy_floor.measure import Measured
    from nndiag.core.findings import Observation

MOVED = 0.01  # mean total-variation distance that is worth a word
GREATLY = 0.1  # under label smoothing, whose users expect a small shift
MOST_CLASSES = 2048


def weighted_optimum(measured: Measured) -> Iterator[Observation]:
    """Yield how far the optimum moves, and a finding where it moves noticeably."""
    recipe, classes = measured.recipe, measured.classes
    weights = np.asarray(recipe.weights)
    if measured.layout.kind == BINARY:
        if measured.sample is None or measured.sample_weights is None:
            return
        q, weights = measured.sample, measured.sample_weights
        share = np.full(len(q), 1.0 / len(q))
    elif measured.layout.kind == IDS:
        counts = measured.ids.counts[:classes] if measured.ids else np.ones(classes)
        chosen = np.flatnonzero(counts)[:MOST_CLASSES]
        q, share = one_hot(chosen, classes), counts[chosen] / counts[chosen].sum()
    elif measured.sample is not None:
        q = measured.sample
        share = np.full(len(q), 1.0 / len(q))
    else:
        return
    soft = bool((q.max(1) < 1.0).any())
    q = targets_of(q, recipe.rate(classes))
    u = q * weights
    total = u.sum(1, keepdims=True)
    optimum = np.where(total > 0, u / np.where(total > 0, total, 1.0), q)
    moved = 0.5 * np.abs(optimum - q).sum(1)  # total variation (rows,)
    mean, most = float((share * moved).sum()), float(moved.max())
    flipped = float((share * (optimum.argmax(1) != q.argmax(1))).sum())
    yield Measurement("optimum_shift", mean, "total variation")
    if mean <= MOVED and flipped == 0.0:
        return
    what = "soft labels" if soft else f"label smoothing {recipe.epsilon:g}"
    yield found(
        "ENT007",
        f"class weights move the optimum of {what} by {num(mean, 3)} on average (at most {num(most, 3)})",
        evidence=Evidence(
            mean, "total variation", threshold=MOVED, n={"rows": len(q)},
            detail=f"p = wq/sum(wq) against q; the most probable class changes in {percent(flipped)} of the rows",
        ),
        means="the loss is least at p = wq/sum(wq), not at p = q: a perfectly trained model is not calibrated to the "
        "labels, and its floor is not their entropy",
        fix="weight samples instead of classes (WeightedRandomSampler, or reduction='none' times a weight per row), or "
        "divide the predictions by w and renormalise",
        severity=None if soft or flipped > 0.0 or mean > GREATLY else Severity.NOTE,
    )  # fmt: skip
