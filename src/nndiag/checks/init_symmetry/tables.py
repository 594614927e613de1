"""The main table, the accuracy that identical starts did not prevent, and the answer in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.checks.init_symmetry.dead import class_prior_entropy
from nndiag.checks.init_symmetry.groups import place_of
from nndiag.core.findings import Answer, Measurement, Table

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
    yield Answer(_answer(scene))


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
    for view in scene.views:
        verdict = verdicts.get(id(view))
        status = flagged.get(place_of(view), "ok" if judgement else "skipped")
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
        for how, width in ((f"{item.steps} steps as they are", item.width_after), *item.runs)
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
    from nndiag.checks.init_symmetry.live import own_bench
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
    where = f"{scene.outcome.rows} rows {kind}, {scene.outcome.steps} steps"
    yield Measurement("accuracy", scene.outcome.right, "share of right classes", where)
    yield Measurement("loss_first", scene.outcome.losses[0], "nats")
    yield Measurement("loss_last", scene.outcome.losses[-1], "nats")
    yield Measurement("class_prior_entropy", prior, "nats")


def _reached(scene: Scene) -> str:
    """The longer training in words."""
    reached = scene.outcome
    if reached is None or reached.right is None:
        return ""
    kind = "held-out" if reached.held_out else "training"
    prior = class_prior_entropy(scene)
    against = (
        f", loss {reached.losses[-1]:.3g} against {prior:.3g} nats for the class prior" if prior is not None else ""
    )
    return f"; {kind} accuracy after {reached.steps} steps {reached.right:.0%}{against}"


def _answer(scene: Scene) -> str:
    judgement, starvation = scene.judgement, scene.starvation
    units = sum(view.units for view in scene.views)
    scope = f"{units:,} units in {len(scene.views)} layers"
    if judgement is None:
        n = sum(item.rule.code in {"SYM001", "SYM002", "SYM003"} for item in scene.findings)
        return (
            f"By the weights alone {n} layer(s) may be trapped, of {scope}; no steps were run."
            if n
            else (f"By the weights alone nothing is trapped: {scope}; no steps were run.")
        )
    stuck = [item for item in judgement.verdicts if item.kind == "stuck"]
    other = [item for item in judgement.verdicts if item.kind in {"rounding only", "dropout only"}]
    broken = [
        item
        for item in judgement.verdicts
        if item.kind not in {"stuck", "rounding only", "dropout only", "no gradient"}
    ]
    steps = judgement.trial.steps
    parts = []
    if stuck:
        worst = max(stuck, key=lambda item: item.view.units - item.width_after)
        parts.append(
            f'{len(stuck)} layer(s) hold units that never come apart, worst "{worst.view.label}" with '
            f"{worst.width_after} distinct of {worst.view.units} after {steps} steps"
        )
    if other:
        parts.append(
            f"{len(other)} layer(s) come apart by {' and '.join(sorted({item.kind.split()[0] for item in other}))} only"
        )
    dead = [path for path in starvation.paths if not path.chance] if starvation else []
    if dead:
        tensors = sum(len(path.starved) for path in dead)
        parts.append(f"no gradient ever reaches {tensors} tensors")
    if judgement.mirrors:
        parts.append(f"{sum(len(item.pairs) for item in judgement.mirrors)} pair(s) are locked by their sign")
    words = {
        "SYM101": "units that no input switches on",
        "SYM102": "a signal that loses its scale",
        "SYM103": "an input forgotten with depth",
    }
    parts.extend(words[code] for code in dict.fromkeys(item.rule.code for item in scene.findings) if code in words)
    if parts:
        lead = "Trapped: " if stuck or other or dead or judgement.mirrors else "Nothing is trapped, but: "
        return lead + "; ".join(parts) + (_reached(scene) if dead else "") + "."
    if broken:
        by = ", ".join(sorted({item.kind for item in broken}))
        return (
            f"Nothing is trapped: of {scope}, {len(broken)} layer(s) start with identical units and come apart within "
            f"{steps} steps, by: {by}{_reached(scene)}."
        )
    return (
        f"Nothing is trapped: {scope}, all different at the start or told apart within {steps} steps, and gradient "
        "arrives."
    )
