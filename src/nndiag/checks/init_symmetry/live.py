"""The examination of a model that can be run."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nndiag.checks.init_symmetry import dead, details, groups, signals, silent, static, tables
from nndiag.core.errors import NndiagError, NothingApplicableError
from nndiag.core.findings import Evidence, Fact, Judged, Skip, Step
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.init_symmetry import InitSymmetry
    from nndiag.core.findings import Finding, Observation
    from nndiag.core.subject import Batch, Subject
    from nndiag.lab.bench import Bench
    from nndiag.lab.symmetry.dead import Starvation
    from nndiag.lab.symmetry.judge import Judgement
    from nndiag.lab.symmetry.outcome import Outcome
    from nndiag.lab.symmetry.signal import Signals
    from nndiag.lab.units import UnitView

BATCHES = 4
ROWS = 32  # per step, unless the user's batches are given
STEPS_TO_COME = 80  # forward and backward passes of a usual examination
HEAVY = 400_000_000  # parameters that are not trained here: the copies would not fit beside the model
RESERVE = 1.0  # seconds kept for the report
LONG_SECONDS = 20.0  # that the training in two precisions may take
SPENT = "the time budget was spent"
DYNAMIC = ("SYM201", "SYM202", "SYM203", "SYM204")
STATIC = ("SYM001", "SYM002", "SYM003")


@dataclass(slots=True)
class Scene:
    """What the parts of the examination share."""

    check: InitSymmetry
    subject: Subject
    bench: Bench
    views: list[UnitView]
    rows: int
    signals: Signals | None = None
    judgement: Judgement | None = None
    starvation: Starvation | None = None
    findings: list[Finding] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def steps(self) -> int:
        """Length of the longer runs."""
        return self.subject.training.steps or self.check.steps

    @property
    def head(self) -> tuple[str, ...]:
        """Parameters of the output layer: the last weighted layer that ran."""
        if self.signals is None or self.signals.flow is None:
            return ()
        sites = self.signals.of_role("affine")
        name = sites[-1].call.name if sites and sites[-1].call.module is not None else None
        own = self.bench.parameters
        return tuple(key for key in own if name is not None and key.rpartition(".")[0] == name)


def examine_model(check: InitSymmetry, subject: Subject) -> Iterator[Observation]:
    """Yield static findings, signals and verdicts for a live model."""
    run = subject.run
    dynamic = run.train is not False and run.wants(*DYNAMIC)
    bench = _bench(check, subject)
    total = sum(item.numel() for item in bench.model.parameters())
    yield Fact("parameters", total, f"{total:,} parameters")
    if total == 0:
        raise NothingApplicableError("the model has no parameters", hint="nothing is initialised here")
    from nndiag.lab.symmetry.judge import views_of

    views = views_of(bench, check.wants_layer)
    rows = sum(_rows(batch) for batch in bench.batches)
    yield Fact("layers", len(views), f"{len(views)} layers with {sum(view.units for view in views):,} units")
    data = subject.data
    yield Fact("data", data.name if data else "none", f"data {data.name}" if data else "no data")
    yield Fact("precision", str(bench.dtype).removeprefix("torch."), "")
    scene = Scene(check, subject, bench, views, rows)
    yield from _nonfinite(scene)
    yield Step("forward and backward", 0.1)
    yield from _signals(scene)
    if dynamic and total > HEAVY:
        yield from (Skip(code, f"{total:,} parameters are not trained here") for code in DYNAMIC)
    elif dynamic:
        yield Step("first steps", 0.3)
        yield from _dynamic(scene)
    else:
        why = "--no-train" if run.train is False else "not selected"
        yield from (Skip(code, why) for code in DYNAMIC if run.wants(code))
    if scene.signals is not None and run.wants("SYM101"):
        yield from silent.examine(scene, scene.signals)
    yield from static.examine(scene)
    yield from details.examine(scene)
    yield from tables.report(scene)


def _bench(check: InitSymmetry, subject: Subject) -> Bench:
    from nndiag.lab.bench_build import build_bench

    if subject.data is None or subject.model is None:
        raise NndiagError(
            "there are no inputs to run the model on", hint="give DATA, or --data synthetic:normal,shape=…"
        )
    deadline = time.monotonic() + subject.run.seconds_left - RESERVE
    bench = build_bench(
        subject.model,
        _batches(check, subject),
        subject.training,
        seed=subject.run.seed,
        device=subject.run.device,
        seconds=math.inf if subject.training.batch_size else subject.run.seconds_left / STEPS_TO_COME,
    )
    bench.deadline = deadline
    return bench


def _batches(check: InitSymmetry, subject: Subject, most: int = BATCHES, samples: int = 0) -> list[Batch]:
    """A few batches of the user's size, or of a size that keeps the steps cheap."""
    from nndiag.lab.forward import as_tensors, take

    assert subject.data is not None
    size = subject.training.batch_size or ROWS
    batches: list[Batch] = []
    rows = 0
    for batch in subject.data.batches(size):
        batches.append(take(as_tensors(batch), max(size, 2)))
        rows += _rows(batches[-1])
        if len(batches) >= most or rows >= (samples or check.samples):
            break
    if not batches:
        raise NothingApplicableError("the data is empty", hint="give at least one batch")
    return batches


def _rows(batch: Any) -> int:
    from nndiag.lab.forward import batch_rows

    try:
        return batch_rows(batch)
    except NndiagError:
        return 1


def _nonfinite(scene: Scene) -> Iterator[Observation]:
    """Weights that are no numbers make every verdict void; buffers may hold infinity as a bound or a mask."""
    import torch

    learned = {name for name, _ in scene.bench.model.named_parameters()}
    bad = [
        name
        for name, item in scene.bench.start.items()
        if name in learned and item.is_floating_point() and not torch.isfinite(item).all()
    ]
    if bad:
        names = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        raise NndiagError(
            f"{len(bad)} tensors hold NaN or infinity: {names}", hint="identical units cannot be judged there"
        )
    yield from ()


def _signals(scene: Scene) -> Iterator[Observation]:
    from nndiag.lab.symmetry.signal import measure

    try:
        inputs, rows = signals.wide_batch(scene)
        scene.signals = measure(scene.bench, inputs, rows)
    except (NndiagError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield from (Skip(code, f"the watched forward failed: {reason}") for code in signals.CODES)
        return
    if scene.subject.run.wants(*signals.CODES):
        yield from signals.examine(scene)


def _dynamic(scene: Scene) -> Iterator[Observation]:
    """Run the steps, judge, and say what was not finished."""
    from nndiag.lab.bench import OutOfTimeError
    from nndiag.lab.symmetry.dead import examine
    from nndiag.lab.symmetry.judge import judge

    long = LongRun(scene)
    try:
        scene.judgement = judge(
            scene.bench,
            scene.views,
            tolerance=scene.check.tolerance,
            own=long.bench,
            steps=long.steps,
            most=long.most,
            head=scene.head,
        )
    except OutOfTimeError:
        yield from _stopped(DYNAMIC)
        return
    trial = scene.judgement.trial
    if not trial.finite:
        reason = f"the loss or a gradient became NaN or infinite at step {trial.steps}"
        yield from (Skip(code, reason) for code in DYNAMIC)
        return
    if all(math.isnan(value) for seen in trial.arrival.values() for value in seen):
        scene.judgement = None  # all frozen, or nothing that the loss depends on
        yield from (Skip(code, "no parameter is trained: frozen, or not in the loss") for code in DYNAMIC)
        return
    yield from groups.examine(scene, long.refused)
    yield Step("dead paths", 0.8)
    stopped = scene.judgement.unfinished
    try:
        scene.starvation = examine(scene.bench, trial, None, trial.steps)
    except OutOfTimeError:
        yield Skip("SYM202", SPENT)
        stopped = (*stopped, "dead paths")
    else:
        yield from dead.examine(scene)
        yield Judged("SYM202")
    if stopped:
        yield _budget_note(f"the time budget ended before these were settled: {', '.join(stopped[:4])}")


class LongRun:
    """The training in two precisions that shows what rounding alone does."""

    def __init__(self, scene: Scene) -> None:
        """Choose its length: as many steps as the user said, or the default and more for what is about to part."""
        training = scene.subject.training
        rated, counted = training.lr is not None, training.steps is not None
        named = training.optimizer is not None
        first, most = (1, 1) if counted or not (named or rated) else (1, 3) if rated else (3, 10)
        self.steps, self.most = first * scene.steps, most * scene.steps
        self.refused = ""  # why it was not run
        self._scene = scene

    def bench(self) -> Bench | None:
        """A copy in the model's own precision, where the time suffices for the run."""
        left = self._scene.subject.run.seconds_left
        cost = 3 * self.most * self._scene.bench.seconds
        if cost > min(LONG_SECONDS, left / 3):
            self.refused = f"the long run in both precisions takes about {cost:.0f} s: raise --max-seconds"
            return None
        own = own_bench(self._scene)
        if own.dtype == self._scene.bench.dtype:
            self.refused = "the model runs in one precision only"
        return own


def own_bench(scene: Scene, most: int = BATCHES, samples: int = 0) -> Bench:
    """A second private copy, in the precision that the user trains in."""
    from nndiag.lab.bench_build import build_bench

    subject = scene.subject
    assert subject.model is not None
    bench = build_bench(
        subject.model,
        _batches(scene.check, subject, most, samples),
        subject.training,
        seed=subject.run.seed,
        device=subject.run.device,
        exact=False,
        seconds=math.inf if subject.training.batch_size else subject.run.seconds_left / STEPS_TO_COME,
    )
    bench.deadline = scene.bench.deadline
    return bench


def _stopped(codes: tuple[str, ...]) -> Iterator[Observation]:
    yield from (Skip(code, SPENT) for code in codes)
    yield _budget_note("the time budget ended before the steps were run")


def _budget_note(message: str) -> Finding:
    return found(
        "NND902",
        message,
        evidence=Evidence(unit="s"),
        means="what was not run is listed as skipped",
        fix="raise --max-seconds",
    )
