"""The examination of a model that can be run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nndiag.checks.init_symmetry import copies, dead, details, groups, signals, silent, static, tables
from nndiag.checks.init_symmetry.benches import LongRun, make_bench, rows_of
from nndiag.core.errors import NndiagError, NothingApplicableError
from nndiag.core.findings import Evidence, Fact, Judged, Skip, Step
from nndiag.core.rules import found
from nndiag.core.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.init_symmetry import InitSymmetry
    from nndiag.core.findings import Finding, Observation
    from nndiag.core.subject import Subject
    from nndiag.lab.bench import Bench
    from nndiag.lab.symmetry.dead import Starvation
    from nndiag.lab.symmetry.judge import Judgement
    from nndiag.lab.symmetry.outcome import Outcome
    from nndiag.lab.symmetry.signal import Signals
    from nndiag.lab.units.layers import UnitView

HEAVY = 400_000_000  # parameters that are not trained here: the copies would not fit beside the model
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
    judged: dict[int, str] = field(default_factory=dict)  # id of a view -> level of the finding that speaks of it
    outcome: Outcome | None = None
    tables: tuple[UnitView, ...] = ()  # rows that no layer multiplies with
    unseen: tuple[str, ...] = ()  # matrices whose use was not followed: their units are not known

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
        own = self.bench.parameters
        if not sites:
            return ()
        last = sites[-1].call
        if last.module is None:  # a product with parameters of the model's own
            return tuple(key for key in last.parameters if key in own)
        return tuple(key for key in own if key.rpartition(".")[0] == last.name)


def examine_model(check: InitSymmetry, subject: Subject) -> Iterator[Observation]:
    """Yield static findings, signals and verdicts for a live model."""
    run = subject.run
    dynamic = run.train is not False and run.wants(*DYNAMIC)
    bench = make_bench(check, subject)
    total = sum(item.numel() for item in bench.model.parameters())
    yield Fact("parameters", total, f"{total:,} parameters")
    if total == 0:
        raise NothingApplicableError("the model has no parameters", hint="nothing is initialised here")
    from nndiag.lab.symmetry.views import views_of

    looked = views_of(bench)
    views = [
        view for view in looked.views if check.wants_layer(groups.place_of(view)) or check.wants_layer(view.module)
    ]
    rows = sum(rows_of(batch) for batch in bench.batches)
    units = sum(view.units for view in views)
    yield Fact("layers", len(views), f"{counted(len(views), 'layer')} with {counted(units, 'unit')}")
    data = subject.data
    yield Fact("data", data.name if data else "none", f"data {data.name}" if data else "no data")
    yield Fact("precision", str(bench.dtype).removeprefix("torch."), "")
    unseen = tuple(name for name in looked.unseen if check.wants_layer(name))
    loose = tuple(view for view in looked.tables if check.wants_layer(view.module))
    scene = Scene(check, subject, bench, views, rows, tables=loose, unseen=unseen)
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
    yield from _unseen(scene)
    yield from details.examine(scene)
    yield from tables.report(scene)


def _unseen(scene: Scene) -> Iterator[Observation]:
    """Say which matrices were not looked at; those that the loss does not depend on have been named already."""
    if scene.judgement is not None:
        idle = {name for name, seen in scene.judgement.trial.arrival.items() if all(math.isnan(one) for one in seen)}
        scene.unseen = tuple(name for name in scene.unseen if name not in idle)
    if scene.unseen:
        shown = ", ".join(scene.unseen[:3]) + (f" and {len(scene.unseen) - 3} more" if len(scene.unseen) > 3 else "")
        reason = "how it is multiplied was not followed, so its units are not known"
        yield from (Skip(code, reason, shown) for code in ("SYM001", "SYM201"))


def _nonfinite(scene: Scene) -> Iterator[Observation]:
    """Weights that are no numbers make every verdict void; buffers may hold infinity as a bound or a mask."""
    from nndiag.lab.bench_parts import finite

    learned = {name for name, _ in scene.bench.model.named_parameters()}
    bad = [
        name
        for name, item in scene.bench.start.items()
        if name in learned and item.is_floating_point() and not finite(item)
    ]
    if bad:
        names = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        raise NndiagError(
            f"{counted(len(bad), 'tensor')} with NaN or infinity: {names}",
            hint="identical units cannot be judged there",
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
            tables=scene.tables,
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
    yield from copies.examine(scene)
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
