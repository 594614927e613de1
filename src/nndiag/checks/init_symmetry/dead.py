"""Findings about parameters that no gradient ever reaches because of how they were initialised."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from nndiag.checks.init_symmetry.groups import place
from nndiag.core.findings import Evidence, Measurement, Severity, Skip
from nndiag.core.rules import found
from nndiag.core.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.init_symmetry.live import Scene
    from nndiag.core.findings import Finding, Observation
    from nndiag.lab.symmetry.dead import DeadPath

THROUGH = ("shape", "dropout", "pool", "activation", "normaliser")


def examine(scene: Scene) -> Iterator[Observation]:
    """Yield a finding for each dead path, and say which parameters were not exercised."""
    starvation, judgement = scene.starvation, scene.judgement
    if starvation is None or judgement is None:
        return
    paths = [path for path in starvation.paths if any(scene.check.wants_layer(name) for name in path.blockers)]
    for path in [item for item in paths if item.chance]:
        yield Skip(
            "SYM202", "its few units are all off on these inputs, perhaps by chance: give more data", path.blockers[0]
        )
    paths = [item for item in paths if not item.chance]
    for path in paths:
        finding = _finding(scene, path)
        scene.findings.append(finding)
        yield finding
    for names, reason in (
        (
            starvation.by_design,
            "no initial values bring gradient here: the architecture, the batch or the loss does not use it",
        ),
        (starvation.unused, "not exercised: the loss does not depend on it"),
    ):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            yield Skip("SYM202", reason, shown)
            yield Measurement("tensors_without_gradient", len(names), "tensors", reason.split(":")[0])


def _finding(scene: Scene, path: DeadPath) -> Finding:
    assert scene.judgement is not None
    steps = scene.judgement.trial.steps
    numel = sum(scene.bench.start[name].numel() for name in path.starved)
    first, following = _in_series(scene, path)
    if len(path.zero) > 1:
        # the two that are in series first: a zero that ends a residual branch is one only because of them
        pair = [name for name in (first, following) if name in path.zero]
        names = ", ".join(f'"{name}"' for name in [*pair, *(name for name in path.zero if name not in pair)][:4])
        more = f" and {len(path.zero) - 4} more" if len(path.zero) > 4 else ""
        cause = f"zero factors in series ({names}{more})"
        why = "each factor's gradient is multiplied by the other one, which is zero, so neither ever moves"
        cure = "leave one of them random: a single zero factor wakes up after one step (LoRA: A random, B zero)"
    elif path.zero and not _cuts(scene, first):
        cause = f'"{first}" is zero, and what it feeds sends nothing back'
        why = "what it feeds cancels or is multiplied by zero, at every step, so it never moves"
        cure = "use nn.init.kaiming_normal_ or the default initialisation"
    elif path.zero:
        cause = f'"{first}" is zero and what reads it passes no gradient at zero'
        why = "what reads it has slope 0 at zero, as torch's relu does: what starts at exactly zero there stays there"
        cure = "use nn.init.kaiming_normal_ or the default initialisation, or slope at 0 (LeakyReLU, GELU)"
    elif _none_is_off(scene):
        cause = "at these first values the output or the loss passes none back, and no activation before it is off"
        why = "a ReLU or a clamp on the output or inside the loss is off for every input"
        cure = "look at the outputs of the fresh model and at the slope of the loss there; another draw may do"
        first, following = "", None
    else:
        cause = f'the activation behind "{first}" is off for every input'
        why = "where every unit of a layer is switched off, no gradient passes, and its biases can never rise again"
        cure = "start the bias at 0 and scale the inputs; nn.init.kaiming_normal_ for the weights"
    shown = ", ".join(path.starved[:4]) + (f" and {len(path.starved) - 4} more" if len(path.starved) > 4 else "")
    return found(
        "SYM202",
        f"no gradient ever reaches {counted(len(path.starved), 'tensor')} ({counted(numel, 'parameter')}): {cause}",
        where=place(scene, first, following),
        evidence=Evidence(
            value=0.0,
            unit="gradient",
            threshold=0.0,
            n={"steps": steps, "samples": scene.rows, "parameters": numel},
            seed=scene.subject.run.seed,
            detail=f"exactly zero at every step for {shown}; drawn afresh, gradient arrives within "
            f"{counted(steps, 'step')}",
        ),
        means=why,
        fix=cure + "; Keras: kernel_initializer='he_normal'",
        severity=Severity.WARNING if not path.zero and _none_is_off(scene) else None,  # a draw that happened
    )


def _none_is_off(scene: Scene) -> bool:
    """Whether all activations were seen, and each is on for some unit and input: then none of them is the blockade."""
    cuts = [site for site in scene.signals.of_role("activation") if site.units] if scene.signals else []
    return bool(cuts) and all(site.dead < site.units for site in cuts)


def _cuts(scene: Scene, name: str) -> bool:
    """Whether what reads this layer is an activation whose slope at zero is zero; yes where that was not seen."""
    if scene.signals is None:
        return True
    cutting = {site.call.index for site in scene.signals.of_role("activation") if site.units}
    flow = scene.signals.flow
    calls = [step for step in flow.steps if name in (step.name, *step.parameters)] if flow is not None else []
    if flow is None or not calls or not cutting:
        return bool(cutting)
    passed = tuple(role for role in THROUGH if role != "activation")
    return any(end.index in cutting for call in calls for end in flow.after(call, through=passed))


def _in_series(scene: Scene, path: DeadPath) -> tuple[str, str | None]:
    """The blocker that another one reads, by the names under which they ran: a tied layer has two."""
    flow = scene.signals.flow if scene.signals else None
    first = path.blockers[0]
    if flow is None or len(path.blockers) < 2:
        return first, path.blockers[1] if len(path.blockers) > 1 else _reader(scene, first)
    modules = dict(scene.bench.model.named_modules(remove_duplicate=False))
    weights = {id(modules[name].weight): name for name in path.blockers if hasattr(modules.get(name), "weight")}
    goes_by = {
        name: weights[id(item.weight)] for name, item in modules.items() if id(getattr(item, "weight", None)) in weights
    }
    for call in flow.steps:
        if call.kind != "module" or call.name not in goes_by:
            continue
        for end in flow.after(call, through=THROUGH):
            if goes_by.get(end.name, goes_by[call.name]) != goes_by[call.name]:
                return call.name, end.name
    return first, path.blockers[1]


def _reader(scene: Scene, name: str) -> str | None:
    """The first weighted layer behind a module."""
    flow = scene.signals.flow if scene.signals else None
    if flow is None:
        return None
    call = next((step for step in flow.steps if step.kind == "module" and step.name == name), None)
    ends = flow.after(call, through=THROUGH) if call else ()
    return next((step.name or step.owner for step in ends), None)


def class_prior_entropy(scene: Scene) -> float | None:
    """H of the classes in the batches, where targets are class ids."""
    counts: Counter[int] = Counter()
    for batch in scene.bench.batches:
        targets: Any = batch.targets
        if not hasattr(targets, "is_floating_point") or targets.is_floating_point() or targets.dim() != 1:
            return None
        counts.update(targets.tolist())
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values()) if total else None
