"""Findings about groups of identical units: stuck, told apart by rounding, by dropout; locked by a sign."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nndiag.core.findings import Evidence, Judged, Measurement, Severity, Skip, Where
from nndiag.core.rules import found
from nndiag.core.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.init_symmetry.live import Scene
    from nndiag.core.findings import Finding, Observation
    from nndiag.lab.symmetry.groups import Mirror, Twins
    from nndiag.lab.symmetry.verdict import Verdict
    from nndiag.lab.units.layers import UnitView

ESCAPED = 0.01  # of the displacement, as symmetry_rounding has it
UNKNOWN = "incoming weights identical, outgoing ones not known"
DIFFER = "incoming weights identical, outgoing ones differ"
CODES = {"stuck": "SYM201", "rounding only": "SYM203", "dropout only": "SYM204"}


def examine(scene: Scene, no_long_run: str = "") -> Iterator[Observation]:
    """Yield a finding for every layer whose identical units are not told apart by what they learn.

    Args:
        scene: With the judgement.
        no_long_run: Why the training in two precisions was not made; empty when it was.
    """
    from nndiag.lab.symmetry.flow import in_series
    from nndiag.lab.symmetry.groups import same_place

    judgement = scene.judgement
    if judgement is None:
        return
    judgement.verdicts = [_settled(scene, item) for item in judgement.verdicts]
    sick = {id(item.twins): item for item in judgement.verdicts if item.kind in CODES}
    flow = scene.signals.flow if scene.signals else None
    for bundle in same_place([item.twins for item in sick.values()], lambda one, other: in_series(flow, one, other)):
        verdicts = [sick[id(twins)] for twins in bundle]
        finding = _finding(scene, verdicts)
        scene.findings.append(finding)
        scene.judged.update({id(item.view): finding.severity.word for item in verdicts})
        yield finding
    for mirror in judgement.mirrors:
        finding = mirror_finding(scene, mirror, measured=True)
        scene.findings.append(finding)
        yield finding
    yield from (Judged(code) for code in ("SYM201", "SYM204"))
    if all(item.gaps is not None for item in judgement.verdicts if item.kind == "stuck"):
        yield Judged("SYM203")
    else:
        yield Skip("SYM203", no_long_run or "the time budget ended in the long run in both precisions")
    for label in judgement.unfinished:
        yield from (Skip(code, "the time budget was spent", label) for code in ("SYM201", "SYM203", "SYM204"))
    yield from _numbers(judgement.verdicts)


def _settled(scene: Scene, verdict: Verdict) -> Verdict:
    """A verdict; of units whose outgoing weights differ, and of which most have come apart, that they have.

    Adam's first steps are signs times the rate: of many units that part, a few pairs have not parted by much yet.
    """
    rest = verdict.rest
    if verdict.kind != "stuck" or rest is None or 2 * rest.width <= rest.view.units:
        return verdict
    if condition(scene, rest)[0] != DIFFER or condition(scene, verdict.twins)[0] != DIFFER:
        return verdict
    return replace(verdict, kind="outgoing weights", rest=None)


def place(scene: Scene, name: str, following: str | None = None) -> Where:
    """The module's dotted name, class and the line that built it."""
    from nndiag.lab.watch.sites import locate

    try:
        module = scene.bench.model.get_submodule(name)
    except AttributeError:  # a bare parameter
        owner = name.rpartition(".")[0]
        where = locate(scene.bench.model.get_submodule(owner), owner)
        return replace(where, module=name, next=following)
    return replace(locate(module, name), next=following)


def place_of(view: UnitView) -> str:
    """The module; of a parameter that is multiplied by hand, the parameter."""
    return view.weights[0] if view.kind == "raw" and view.part else view.module


def condition(scene: Scene, twins: Twins) -> tuple[str, tuple[str, ...]]:
    """Which half of the condition holds, in words, and who reads the units."""
    from nndiag.lab.symmetry.flow import outgoing, refine

    far = outgoing(scene.signals.flow if scene.signals else None, twins.view, scene.bench.start)
    labels = far.labels()
    if far.answer:
        return "incoming weights identical; the units are the model's output", far.readers
    if labels is None:
        return UNKNOWN, far.readers
    kept = sum(group.size for group in refine(twins.groups, labels))
    if kept == twins.size:
        return "incoming and outgoing weights identical", far.readers
    if kept:
        return f"incoming weights identical, outgoing ones for {kept} of {twins.size} units", far.readers
    return DIFFER, far.readers


def _finding(scene: Scene, verdicts: list[Verdict]) -> Finding:
    """One finding for layers with the same groups in one place."""
    first = verdicts[0]
    view, rest = first.view, first.rest or first.twins
    words, readers = condition(scene, rest)
    where = place(scene, place_of(view), readers[0] if readers else None)
    if first.kind == "rounding only":
        return _rounding(scene, first, where, words)
    names = [item.view.label for item in verdicts[1:]]
    also = f" (likewise {', '.join(names)})" if names else ""
    evidence = Evidence(
        value=float(rest.width),
        unit="distinct units",
        threshold=float(view.units),
        n={"units": view.units, "steps": first.steps, "samples": scene.rows},
        seed=scene.subject.run.seed,
        detail=f"{words}; groups {rest.shown()}; units count as one while they move alike to "
        f"{scene.check.tolerance:g} of their displacement; {_named(scene.bench.dtype)}, dropout off{also}"
        f"{_longer(scene, first)}",
    )
    if view.kind == "table":
        return _rows(first, where, evidence)
    meant = words == UNKNOWN and _starts_at_zero(scene, first.twins)
    if first.kind == "dropout only":
        return found(
            "SYM204",
            f'{rest.size} identical units in "{view.label}" are told apart by dropout only: {_size(first)} without it',
            where=where,
            evidence=evidence,
            means="random masks break the tie, the loss does not: the units part slowly and start as one",
            fix=_cure(first),
            severity=Severity.NOTE if meant else None,
        )
    if words == DIFFER:
        return found(
            "SYM201",
            f'{rest.size} of {view.units} units in "{view.label}" move alike: {_size(first)}',
            where=where,
            evidence=evidence,
            means="outgoing weights that differ scale the gradients of these units, and an optimizer that divides by "
            f"their size, as Adam does, takes that away; the layer is {rest.width} wide with it, plain SGD parts them",
            fix=_cure(first),
        )
    return found(
        "SYM201",
        f'{rest.size} of {view.units} units in "{view.label}" stay identical: {_size(first)}',
        where=where,
        evidence=evidence,
        means="equal incoming weights, biases and outgoing weights get equal gradients, so every optimizer that treats "
        f"weights alike keeps them equal for ever; the layer can never be wider than {rest.width}",
        fix=_cure(first),
        severity=Severity.WARNING if meant else None,
    )


def _starts_at_zero(scene: Scene, twins: Twins) -> bool:
    """Whether a layer starts as no change at all and learns: gates and streams do so on purpose.

    What reads the units then treats them alike by design (streams that are added up), or its own weights are named.
    """
    return not any(scene.bench.start[name].any() for name in twins.view.weights)


def _rows(verdict: Verdict, where: Where, evidence: Evidence) -> Finding:
    """Learned queries, latents or tokens that are one: a note, because a checkpoint often takes their place."""
    return found(
        CODES[verdict.kind],
        f'all {verdict.view.units} rows of "{verdict.view.label}" start equal and move alike: {_size(verdict)}',
        where=where,
        evidence=evidence,
        means="what reads these rows treats them alike, no position or target tells them apart: they stay one row",
        fix="draw them: nn.init.normal_(rows, std=0.02)"
        + (f" (the same {counted(verdict.steps, 'step')} give {verdict.healed} distinct)" if verdict.healed else "")
        + "; Keras: initializer='random_normal'",
        severity=Severity.NOTE,
    )


def _rounding(scene: Scene, verdict: Verdict, where: Where, words: str) -> Finding:
    """Units that part by rounding: both gaps at the step at which they have parted in the model's precision."""
    rest = verdict.rest or verdict.twins
    low, exact = verdict.gaps or (0.0, 0.0)
    return found(
        "SYM203",
        f'{rest.size} identical units in "{verdict.view.label}" are told apart by rounding only: {_size(verdict)} in '
        f"float64, and a gap of {low:.0%} in {verdict.dtype} by step {verdict.gap_step}",
        where=where,
        evidence=Evidence(
            value=low,
            unit="of the displacement",
            threshold=ESCAPED,
            n={"units": verdict.view.units, "steps": verdict.gap_step, "samples": scene.rows},
            seed=scene.subject.run.seed,
            detail=f"gap {low:.2g} in {verdict.dtype} and {exact:.2g} in float64 at step {verdict.gap_step}; {words}",
        ),
        means="the gap starts at rounding level, grows by itself and moves with the precision: no data is in it, "
        "and hardware, batch size or a library version decide what is learned",
        fix=_cure(verdict),
    )


def _size(verdict: Verdict) -> str:
    """Distinct units before and after."""
    return (
        f"{counted(verdict.twins.width, 'distinct unit')} of {verdict.view.units} at the start, {verdict.width_after} "
        f"after {counted(verdict.steps, 'step')}"
    )


def _longer(scene: Scene, verdict: Verdict) -> str:
    """What the long run in the model's own precision added."""
    if verdict.gaps is None:
        return ""
    return (
        f"; gap {verdict.gaps[0]:.1g} in {verdict.dtype} and {verdict.gaps[1]:.1g} in {_named(scene.bench.dtype)} "
        f"after {counted(verdict.gap_step, 'step')}"
    )


def _cure(verdict: Verdict) -> str:
    """What to write instead, shown at work."""
    shown = (
        f" (drawn afresh, the same {counted(verdict.steps, 'step')} give "
        f"{counted(verdict.healed, 'distinct unit')} of {verdict.view.units})"
        if verdict.healed
        else ""
    )
    also = f"; {verdict.helps[0]} alone would break the tie too" if verdict.helps else ""
    return (
        "use the layer's default initialisation or nn.init.kaiming_normal_(weight), never a constant or a copied row"
        f"{shown}. Keras: kernel_initializer='he_normal'{also}"
    )


def _named(dtype: object) -> str:
    """Return float64 for torch.float64."""
    return str(dtype).removeprefix("torch.")


def mirror_finding(scene: Scene, mirror: Mirror, *, measured: bool) -> Finding:
    """Units that are each other's negative, through an odd activation."""
    pairs = ", ".join(f"{left}/{right}" for left, right in mirror.pairs[:4])
    verb = "is" if len(mirror.pairs) == 1 else "are"
    steps = scene.judgement.trial.steps if measured and scene.judgement else 0
    said = f"and moved exactly against each other for {counted(steps, 'step')}" if measured else "as initialised"
    return found(
        "SYM003",
        f'{counted(len(mirror.pairs), "pair")} of units in "{mirror.view.label}" {verb} each other\'s negative '
        f"{said}: {pairs}",
        where=place(scene, place_of(mirror.view)),
        evidence=Evidence(
            value=float(2 * len(mirror.pairs)),
            unit="units",
            threshold=0.0,
            n={"units": mirror.view.units, "steps": steps},
            detail=f"incoming row, bias and outgoing column negated; {_named(scene.bench.dtype)}",
        ),
        means="through an odd activation (tanh, none) both compute the same function, for ever: "
        f"{mirror.view.units - len(mirror.pairs)} of {mirror.view.units} units are left",
        fix="draw the rows independently (nn.init.xavier_normal_); Keras: kernel_initializer='glorot_normal'",
    )


def _numbers(verdicts: list[Verdict]) -> Iterator[Observation]:
    for item in verdicts:
        label = item.view.label
        yield Measurement("effective_width_start", item.twins.width, "units", label)
        if item.kind != "no gradient":  # nothing has moved them: the dead path is the finding
            yield Measurement("effective_width_steps", item.width_after, "units", label)
        if item.healed is not None:
            yield Measurement("effective_width_fixed", item.healed, "units", label)
