"""What -v and the pages show besides the verdicts: how alike a layer's units are, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.core.findings import Measurement, Series, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.init_symmetry.live import Scene
    from nndiag.core.findings import Observation
    from nndiag.lab.units.layers import UnitView

MOST_LAYERS = 24
MOST_ENTRIES = 1_000_000  # of a layer's weights that is looked at here
MOST_UNITS = 48  # of the heat map
LEAST_SECONDS = 2.0  # of the budget that must be left for these tables
NEAR = 0.01  # relative distance of units that do nearly the same
LONG_SECONDS = 5.0  # for the run that says how wide a layer is in the end


def examine(scene: Scene) -> Iterator[Observation]:
    """Yield the table of ranks, the heat map of the layer in question and its width in the end."""
    views = [view for view in scene.views if view.kind != "embedding" and view.units > 1]
    yield from _ranks(scene, views[:MOST_LAYERS])
    yield from _heat(scene, views)
    yield from _in_the_end(scene)


def _ranks(scene: Scene, views: list[UnitView]) -> Iterator[Observation]:
    """Stable rank and units that nearly repeat another."""
    from nndiag.science.orbits import near
    from nndiag.science.signal import stable_rank

    lines = []
    for view in views:
        if not 0 < view.entries(scene.bench.start) <= MOST_ENTRIES or scene.subject.run.seconds_left < LEAST_SECONDS:
            continue
        rows = view.rows(scene.bench.start)
        alike = view.units - int(near(rows, NEAR, classes=view.class_array).labels.max()) - 1
        lines.append((view.label, view.units, float(f"{stable_rank(rows):.3g}"), min(rows.shape), alike))
    if lines:
        title = f"weights: rank, and units within {NEAR:.0%} of another"
        yield Table(title, ("layer", "units", "stable rank", "at most", "near another"), lines)


def _heat(scene: Scene, views: list[UnitView]) -> Iterator[Observation]:
    """Cosine between the incoming weights of a layer's units: the first with twins, or else the last hidden one."""
    verdicts = scene.judgement.verdicts if scene.judgement else []
    hidden = [view for view in views if not set(view.weights) & set(scene.head)]
    view = verdicts[0].view if verdicts else next(iter(reversed(hidden)), None)
    if view is None or view.units < 2:
        return
    import numpy as np

    large = view.entries(scene.bench.start) > MOST_ENTRIES
    rows = view.raw_rows(scene.bench.start) if large else view.rows(scene.bench.start, bias=True)
    rows = rows[:MOST_UNITS].astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.any():
        return
    unit = rows / np.where(norms > 0, norms, 1.0)
    cosine = unit @ unit.T
    yield Series(
        f'cosine between the units of "{view.label}"',
        list(range(len(rows))),
        [float(f"{value:.4g}") for value in cosine.flatten()],
        "cosine",
        x_unit="unit",
        group="unit correlation",
        kind="heat",
    )


def _in_the_end(scene: Scene) -> Iterator[Observation]:
    """Distinct units after the longer training, for the layers that started with twins."""
    from nndiag.lab.bench import OutOfTimeError
    from nndiag.lab.symmetry.groups import still_together

    judgement = scene.judgement
    if judgement is None or not judgement.verdicts:
        return
    allowed = LONG_SECONDS if scene.subject.training.steps is None else scene.subject.run.seconds_left / 2
    steps = max(scene.steps, judgement.trial.steps)
    long = scene.bench.seconds * steps * 2 > min(allowed, scene.subject.run.seconds_left / 2)
    try:
        trial = judgement.trial if long else scene.bench.run(steps)
    except OutOfTimeError:
        return
    if not trial.finite:
        return
    lines = []
    for item in judgement.verdicts:
        if item.kind == "no gradient":
            continue
        left = still_together(item.twins, trial, scene.check.tolerance)
        width = left.width if left is not None else item.view.units
        lines.append((item.view.label, item.view.units, item.twins.width, item.width_after, width))
        if not long:
            yield Measurement("effective_width_end", width, "units", item.view.label)
        yield Series(
            f"effective width {item.view.label}",
            [0, judgement.trial.steps, trial.steps],
            [float(item.twins.width), float(item.width_after), float(width)],
            "distinct units",
            x_unit="steps",
            group="effective width",
            kind="step",
            threshold=float(item.view.units),
        )
    if lines:
        columns = ("layer", "units", "at the start", f"step {judgement.trial.steps}", f"step {trial.steps}")
        yield Table("distinct units, by displacement", columns, lines)
