"""The main table, and the accuracy that identical starts did not prevent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.checks.init_symmetry.answer import answer, how_trained
from nndiag.checks.init_symmetry.dead import class_prior_entropy
from nndiag.checks.init_symmetry.groups import place_of
from nndiag.core.findings import Answer, Measurement, Table
from nndiag.core.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.init_symmetry.live import Scene
    from nndiag.core.findings import Observation, Scalar

MOST_ROWS = 24
OUTCOME_SECONDS = 5.0
MANY_BATCHES, MANY_ROWS = 64, 2048  # of the longer training


def report(scene: Scene) -> Iterator[Observation]:
    """Yield table, accuracy and answer."""
    yield from _layers(scene)
    yield from _outcome(scene)
    yield Answer(answer(scene))


def _layers(scene: Scene) -> Iterator[Observation]:
    """Layers with groups first, then the others as far as there is room."""
    judgement = scene.judgement
    verdicts = {id(item.view): item for item in judgement.verdicts} if judgement else {}
    flagged = {item.where.module: item.severity.word for item in reversed(scene.findings)}
    if scene.starvation is not None:
        starved = {
            name.rpartition(".")[0] for path in scene.starvation.paths if not path.chance for name in path.starved
        }
        flagged = {**dict.fromkeys(starved, "error"), **flagged}
    rows: list[list[Scalar]] = []
    quiet: list[list[Scalar]] = []
    for view in (*scene.views, *(view for view in scene.tables if id(view) in verdicts)):
        verdict = verdicts.get(id(view))
        status = scene.judged.get(id(view)) or flagged.get(place_of(view), "ok" if judgement else "skipped")
        if verdict is None:
            word = "distinct" if status in {"ok", "skipped"} else ""
            row: list[Scalar] = [view.label, view.units, None, None, word, status]
            (rows if status not in {"ok", "skipped"} else quiet).append(row)
            continue
        broken = verdict.kind not in {"stuck", "rounding only", "dropout only", "no gradient"}
        words = f"breaks: {verdict.kind}" if broken else verdict.kind
        after = verdict.width_after if verdict.kind != "no gradient" else verdict.twins.width
        rows.append([view.label, view.units, verdict.twins.width, after, words, status])
    shown = [*rows, *quiet][:MOST_ROWS]
    yield Table("units", ("layer", "units", "distinct", "later", "verdict", "status"), shown, main=True)
    fixed = [
        (item.view.label, item.view.units, item.width_after, item.healed, ", ".join(item.helps))
        for item in verdicts.values()
        if item.healed is not None
    ]
    if fixed:
        yield Table(
            "the fix at work: these layers drawn afresh, the same steps",
            ("layer", "units", "distinct now", "distinct fixed", "also helps"),
            fixed,
        )
    asked = [
        (item.view.label, item.view.units, how, width)
        for item in verdicts.values()
        for how, width in ((f"{counted(item.steps, 'step')} as they are", item.width_after), *item.runs)
        if item.runs
    ]
    if asked:
        yield Table("what tells identical units apart: runs", ("layer", "units", "run", "distinct"), asked)
    if judgement is not None:
        trial = judgement.trial
        waking = [
            (name, trial.first_arrival(name), float(f"{trial.strongest(name):.3g}"))
            for name in trial.arrival
            if (trial.first_arrival(name) or 0) > 0
        ]
        if waking:
            yield Table("zeros that wake up", ("tensor", "first gradient at step", "share of the strongest"), waking)


def _outcome(scene: Scene) -> Iterator[Observation]:
    """Where something started identical and targets are classes: what a longer training reaches all the same."""
    from nndiag.checks.init_symmetry.benches import own_bench
    from nndiag.lab.bench import OutOfTimeError
    from nndiag.lab.symmetry.outcome import outcome

    judgement = scene.judgement
    if judgement is None or not judgement.verdicts or scene.bench.objective is None or scene.steps < 1:
        return
    prior = class_prior_entropy(scene)
    seconds = min(OUTCOME_SECONDS, scene.subject.run.seconds_left / 4)
    if prior is None or seconds < 1:
        return
    try:
        scene.outcome = outcome(own_bench(scene, MANY_BATCHES, MANY_ROWS), scene.steps, seconds)
    except OutOfTimeError:
        return
    if scene.outcome.right is None:
        return
    kind = "held out" if scene.outcome.held_out else "trained on"
    where = (
        f"{counted(scene.outcome.rows, 'row')} {kind}, {counted(scene.outcome.steps, 'step')} of {how_trained(scene)}"
    )
    yield Measurement("accuracy", scene.outcome.right, "share of right classes", where)
    yield Measurement("loss_first", scene.outcome.losses[0], "nats")
    yield Measurement("loss_last", scene.outcome.losses[-1], "nats")
    yield Measurement("class_prior_entropy", prior, "nats")
