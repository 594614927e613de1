"""ENT201: train on these soft labels in float32 and in float64, and see which one stops first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.checks.entropy_floor.layout import BINARY, IDS, as_source
from nndiag.checks.entropy_floor.words import num
from nndiag.core.findings import Evidence, Judged, Measurement, Series, Skip, Step, Table
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.entropy_floor.measure import Measured
    from nndiag.core.findings import Finding, Observation
    from nndiag.core.subject import Subject
    from nndiag.lab.precision import PrecisionRun, Problem

MOST_ROWS = 4096
MOST_FEATURES = 4096
GAIN = 10.0  # float64 must get this many times closer to the floor
REACHED = 1e-3  # nats: an excess above it is what the model cannot fit, not rounding
SECONDS = 15.0  # for each of the three runs, where the budget allows
LEAST = 1e-18


def precision_limits(subject: Subject, material: dict[str, Any], measured: Measured) -> Iterator[Observation]:
    """Yield both curves, the step at which float32 stalls, and ENT201 when float64 gets much further."""
    reason = _why_not(material, measured)
    if reason:
        yield Skip("ENT201", reason)
        return
    from nndiag.lab.precision import FLOAT32, FLOAT64, MIXED, STEPS, train_in

    problem = _problem(material, measured)
    if isinstance(problem, str):
        yield Skip("ENT201", problem)
        return
    steps = subject.training.steps or STEPS
    runs: dict[str, PrecisionRun] = {}
    for kind in (FLOAT32, FLOAT64, MIXED):
        seconds = min(SECONDS, max(subject.run.seconds_left, 0.0) / (3 - len(runs)))
        if seconds <= 0.0:
            yield Skip("ENT201", "the time budget ended before both precisions were trained")
            yield _stopped()
            return
        yield Step(f"training in {kind}", len(runs) / 3)
        runs[kind] = train_in(problem, kind, subject.training, steps, seed=subject.run.seed, seconds=seconds)
    if any(run.ended == "budget" for run in runs.values()):
        yield _stopped()
    yield from _seen(runs)
    yield from _judged(runs[FLOAT32], runs[FLOAT64], runs[MIXED], subject, len(problem.targets))


def _stopped() -> Finding:
    return found(
        "NND902",
        "the time budget ended the micro-training of ENT201",
        means="its curves are shorter than they were meant to be",
        fix="raise --max-seconds",
    )


def _why_not(material: dict[str, Any], measured: Measured) -> str:
    if measured.layout.kind == BINARY:
        return "trained for labels over classes only"
    if measured.recipe.weights is not None or measured.recipe.temperature != 1.0 or measured.mixed is not None:
        return "not trained under class weights, temperature or a teacher"
    if measured.layout.columns > 1 and measured.layout.kind == IDS:
        return "trained for one label per input only"
    if measured.layout.kind == IDS and not measured.recipe.epsilon:
        return "the labels are certain: the loss has no minimum that a training could reach"
    if material.get("x") is None and material.get("model") is None:
        return "needs the inputs: an npz with x and y, or --model and --data"
    return ""


def _problem(material: dict[str, Any], measured: Measured) -> Problem | str:
    """The user's model on his inputs, or softmax regression on the inputs given; a reason when neither works."""
    import numpy as np
    import torch

    from nndiag.checks.entropy_floor.contradictions import _targets
    from nndiag.lab.precision import Problem, regression

    labels = as_source(material["labels"], "labels")
    if getattr(labels, "once", False):
        return "stdin can be read once"
    batch = material.get("model")
    block = next(iter(labels.chunks(batch.rows if batch is not None else MOST_ROWS)))
    targets, usable = _targets(block, measured)
    targets = targets / targets.sum(1, keepdims=True)
    if not len(targets) or bool((targets.max(1) >= 1.0).all()):
        return "the labels are certain: the loss has no minimum that a training could reach"
    if batch is not None:
        if not usable.all() or len(targets) != batch.rows:
            return "some label rows are unusable"
        return Problem(batch.make, batch.inputs, torch.from_numpy(targets))
    x = next(iter(as_source(material["x"], "x").chunks(MOST_ROWS)))
    x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)[: len(usable)][usable]
    if x.shape[1] > MOST_FEATURES or not np.isfinite(x).all():
        return "the inputs are not finite, or too wide for a softmax regression"
    return regression(torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(targets)))


def _seen(runs: dict[str, PrecisionRun]) -> Iterator[Observation]:
    rows: list[list[str | float | int | None]] = []
    for kind, run in runs.items():
        word = kind.replace(", loss in ", "_loss_").replace(" ", "_")
        yield Measurement(f"excess_{word}", run.best, "nats")
        rows.append([kind, run.best, run.stall, len(run.excess)])
        shown = [max(value, LEAST) for value in run.excess]
        yield Series(
            f"excess {kind}", list(map(float, range(len(shown)))), shown, "nats", "step", group="excess over the floor"
        )
    yield Table("training in two precisions", ("trained in", "least excess", "stalls at", "steps"), rows, main=True)


def _judged(
    single: PrecisionRun, double: PrecisionRun, mixed: PrecisionRun, subject: Subject, rows: int
) -> Iterator[Observation]:
    """ENT201 when float32 has stalled above what float64 reaches."""
    if double.best > REACHED:
        yield Skip("ENT201", f"this model cannot reach the floor ({num(double.best, 2)} nats are left in float64)")
        return
    rested = single.stall < 0.8 * len(single.excess)
    if single.ended == "budget" or double.ended == "budget":
        yield Skip("ENT201", "the time budget ended the runs before they came to rest")
        return
    yield Judged("ENT201")
    if not rested or single.best < GAIN * double.best:
        return
    yield found(
        "ENT201",
        f"float32 stalls at step {single.stall}, {num(single.best, 2)} nats above the floor; "
        f"float64 gets to {num(double.best, 2)}",
        evidence=Evidence(
            single.best / max(double.best, LEAST), "ratio", threshold=GAIN,
            n={"rows": rows, "steps": len(single.excess)}, seed=subject.run.seed,
            detail="least KL in float64, the same start and optimizer in both",
        ),
        means=f"what is left is below the resolution of a float32 loss; with the loss alone in float64 "
        f"(logits.double()) float32 weights get to {num(mixed.best, 2)}",
        fix="compute the loss from logits.double(), or train the last stretch in float64; log KL(q‖p), not the loss",
    )  # fmt: skip
