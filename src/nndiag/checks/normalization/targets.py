"""Are the targets what a loss can learn from?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from nndiag.core.findings import Evidence, Judged, Severity, Skip
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nndiag.core.findings import Finding, Observation
    from nndiag.lab.scale_targets import Targets

MOST_CLASSES = 200
STANDARDISED, PRODUCT = "standardised to mean 0 and sd 1", 5e-3  # n - 1 for n moves the product by 1/n
MAX_SCALE, MIN_SD = 100.0, 1e-3  # root mean square and spread of targets


def examine_targets(  # noqa: PLR0913 - what is known of the loss, by name
    targets: Targets | None,
    *,
    outputs: int | None,
    regression: bool | None = None,
    asked: bool = False,
    away: float | None = None,
    scaleless: Callable[[], bool] = lambda: False,
) -> Iterator[Observation]:
    """NRM011 and NRM012.

    `regression` says whether the loss compares numbers, None where it is not known; `asked` whether the user chose it;
    `away` how far the fresh model's answers are from the targets, `scaleless` tells whether the loss is the same at any
    scale of the targets.
    """
    if targets is None:
        for code in ("NRM011", "NRM012"):
            yield Skip(code, "the data has no numeric targets")
        return
    yield Judged("NRM012")
    spoiled = normalised_labels(targets, outputs)
    if spoiled is not None and regression and asked and STANDARDISED in spoiled.message:
        spoiled = replace(spoiled, severity=Severity.NOTE)  # least squares on two values is a fair classifier
    if spoiled is not None:
        yield spoiled
        yield Skip("NRM011", "the targets are class labels")
        return
    if not targets.floating and regression is False:
        yield Skip("NRM011", "whole numbers under this loss are ids")
        return
    if not targets.floating or is_classes(targets):
        count = len(targets.distinct) if targets.distinct is not None else 0
        if targets.floating or (targets.distinct is not None and count <= MOST_CLASSES) or outputs not in {None, 1}:
            yield Skip("NRM011", "the targets are class labels")
            return
    unscaled = list(_unscaled(targets, away))
    if unscaled and scaleless():
        yield Skip("NRM011", "the loss is the same at any scale of the targets")
        return
    yield Judged("NRM011")
    yield from unscaled


def is_classes(targets: Targets) -> bool:
    """Whether float targets are class ids, zeros and ones, or probabilities all the same."""
    values = targets.distinct
    if values is None:
        return False
    whole = all(value == round(value) and value >= 0 for value in values)
    return whole and values == tuple(float(k) for k in range(len(values))) and len(values) <= MOST_CLASSES


def normalised_labels(targets: Targets, outputs: int | None) -> Finding | None:
    """NRM012: the values are class ids that went through an input transform."""
    values = targets.distinct
    single = targets.shape in {(), (1,)}
    if not targets.floating or not single or values is None or not 2 <= len(values) <= MOST_CLASSES:
        return None
    if all(value == round(value) for value in values):
        return None
    step = (values[-1] - values[0]) / (len(values) - 1)
    even = max(abs(value - values[0] - k * step) for k, value in enumerate(values)) <= 1e-4 * abs(step)
    named = _known_step(values[0], step) or _standardised_pair(values)
    fits = outputs is not None and outputs >= 3 and outputs == len(values)
    if not even or not (named or fits):
        return None
    how = named or f"mapped to steps of {step:.4g}"
    return found(
        "NRM012",
        f"the labels are class ids {how}: "
        + (
            f"the two values {values[0]:.4g} and {values[1]:.4g}"
            if len(values) == 2
            else f"{len(values)} evenly spaced values {values[0]:.4g}, {values[1]:.4g} … {values[-1]:.4g}"
        ),
        evidence=Evidence(step, "", threshold=1.0, n={"targets": int(targets.moments.count[0])}, detail="spacing"),
        means="cast to integers they are nearly all class 0, and a regression loss on them cannot tell classes apart",
        fix="normalise the inputs only: keep y as integer class ids (torch: y.long(); Keras: "
        "sparse_categorical_crossentropy on ids)",
    )


def _known_step(first: float, step: float) -> str:
    """Name the transform that gives this spacing."""
    for divisor, offset, name in (
        (255.0, 0.0, "divided by 255"),
        (256.0, 0.0, "divided by 256"),
        (127.5, -1.0, "/127.5 - 1"),
    ):
        if math.isclose(step * divisor, 1.0, rel_tol=1e-4):
            start = (first - offset) * divisor
            if abs(start) < 1e-2 or abs(start - 1) < 1e-2:  # ids from 0 or from 1
                return name
    return ""


def _standardised_pair(values: tuple[float, ...]) -> str:
    """Name the z-score of zeros and ones: -√(p/(1-p)) and √((1-p)/p), whose product is -1 whatever p is."""
    if len(values) != 2 or not math.isclose(values[0] * values[1], -1.0, rel_tol=PRODUCT):
        return ""
    return STANDARDISED


def _unscaled(targets: Targets, away: float | None) -> Iterator[Finding]:
    """NRM011: the distance that the output has to travel, from where the model starts or from 0."""
    moments = targets.moments
    mean, sd, rms = float(moments.mean[0]), float(moments.sd[0]), float(moments.rms[0])
    if sd == 0 or moments.count[0] < 2:
        return
    small = sd < MIN_SD
    reach = rms if away is None else min(rms, away)
    if reach <= MAX_SCALE and not small:
        return
    start = "a fresh model predicts about 0 and starts" if away is None else "this model starts"
    yield found(
        "NRM011",
        f"targets have mean {mean:.4g} and sd {sd:.4g}: "
        + (
            f"{start} {reach:.4g} away from them (root mean square)"
            if not small
            else f"a model that predicts their mean is already at a squared error of {sd**2:.2g}"
        ),
        evidence=Evidence(
            sd if small else reach,
            "",
            _interval(targets, sd if small else reach, spread=small),
            threshold=MIN_SD if small else MAX_SCALE,
            n={"targets": int(moments.count[0])},
            detail="sd" if small else "root mean square",
        ),
        means="gradients go with the targets' scale: too large and the first steps overshoot or only the bias moves; "
        "too small and the loss looks converged from the start",
        fix=f"train on (y - {mean:.6g}) / {sd:.6g} and undo it after predicting (or log y for positive, skewed "
        "targets); sklearn: TransformedTargetRegressor",
    )


def _interval(targets: Targets, value: float, *, spread: bool) -> tuple[float, float]:
    """How sure the targets' sd, or their root mean square, is."""
    import numpy as np

    from nndiag.science.resampling import resampled

    kept = targets.sample[np.isfinite(targets.sample)].reshape(-1, 1, 1)
    drawn = resampled(kept[:: max(1, len(kept) // 8192)], of=int(targets.moments.count[0]))
    return drawn.interval(lambda mean, sd: (sd if spread else np.hypot(mean, sd))[:, 0], value)
