"""Is anything trapped? In one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.checks.init_symmetry.dead import class_prior_entropy
from nndiag.core.words import agreed, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.checks.init_symmetry.live import Scene
    from nndiag.lab.symmetry.verdict import Verdict

APART = {"rounding only", "dropout only"}
ALIKE = "distinct modules"
BESIDE = {  # findings that name no trap
    "SYM001": "identical units in layers that these inputs do not reach",
    "SYM101": "units that no input switches on",
    "SYM102": "a signal that loses its scale",
    "SYM103": "an input forgotten with depth",
}


def answer(scene: Scene) -> str:
    """What the examination says, with its number, and what it does not speak of."""
    units = sum(view.units for view in scene.views)
    scope = (
        f"{counted(units, 'unit')} in {counted(len(scene.views), 'layer')}"
        if units
        else "no layer here with several units"
    )
    if scene.unseen:
        verb = agreed(len(scene.unseen), "is", "are")
        scope += f" ({counted(len(scene.unseen), 'tensor')} used in a way that was not followed {verb} not among them)"
    if scene.judgement is None:
        found = sum(item.rule.code in {"SYM001", "SYM002", "SYM003"} for item in scene.findings)
        what = f"{counted(found, 'layer')} may be trapped, of {scope}" if found else f"nothing is trapped: {scope}"
        return f"By the weights alone {what}; no steps were run."
    verdicts, within = scene.judgement.verdicts, counted(scene.judgement.trial.steps, "step")
    traps = _traps(scene, verdicts, within)
    codes = dict.fromkeys(item.rule.code for item in scene.findings)
    rows = [item.view for item in verdicts if item.view.kind == "table"]
    loose = [f'the {view.units} rows of "{view.label}" stay equal' for view in rows]
    parts = [*traps, *loose, *(BESIDE[code] for code in codes if code in BESIDE)]
    if parts:
        lead = "Trapped: " if traps else "Nothing is trapped, but: "
        dead = any(item.rule.code == "SYM202" for item in scene.findings)
        return lead + "; ".join(parts) + (_reached(scene) if dead else "") + "."
    broken = [item for item in verdicts if item.kind not in {"stuck", "no gradient", *APART}]
    if broken:
        by = ", ".join(sorted({item.kind for item in broken}))
        layers = f"{counted(len(broken), 'layer')} {agreed(len(broken), 'starts', 'start')} with identical units"
        come = agreed(len(broken), "comes", "come")
        return f"Nothing is trapped: of {scope}, {layers} and {come} apart within {within}, by: {by}{_reached(scene)}."
    if not units:
        return f"Nothing is trapped: {scope}, and gradient arrives."
    return (
        f"Nothing is trapped: {scope}, all different at the start or told apart within {within}, and gradient arrives."
    )


def _traps(scene: Scene, verdicts: Sequence[Verdict], within: str) -> list[str]:
    """What never comes apart, or only by chance."""
    assert scene.judgement is not None
    parts = []
    verdicts = [item for item in verdicts if item.view.kind != "table"]
    if stuck := [item for item in verdicts if item.kind == "stuck"]:
        worst = max(stuck, key=lambda item: item.view.units - item.width_after)
        holds = f"{counted(len(stuck), 'layer')} {agreed(len(stuck), 'holds', 'hold')} units that never come apart"
        left = f"{worst.width_after} distinct of {worst.view.units} after {within}"
        parts.append(f'{holds}, worst "{worst.view.label}" with {left}')
    if other := [item for item in verdicts if item.kind in APART]:
        by = " and ".join(sorted({item.kind.split()[0] for item in other}))
        parts.append(f"{counted(len(other), 'layer')} {agreed(len(other), 'comes', 'come')} apart by {by} only")
    paths = scene.starvation.paths if scene.starvation else ()
    if tensors := sum(len(path.starved) for path in paths if not path.chance):
        parts.append(f"no gradient ever reaches {counted(tensors, 'tensor')}")
    if same := [item for item in scene.findings if item.rule.code == "SYM201" and item.evidence.unit == ALIKE]:
        parts.append(f"{counted(sum(item.evidence.n['modules'] for item in same), 'module')} stay copies")
    if pairs := sum(len(item.pairs) for item in scene.judgement.mirrors):
        parts.append(f"{counted(pairs, 'pair')} of units {agreed(pairs, 'is', 'are')} locked by sign")
    return parts


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
    return (
        f"; {kind} accuracy after {counted(reached.steps, 'step')} of {how_trained(scene)} {reached.right:.0%}{against}"
    )


def how_trained(scene: Scene) -> str:
    """The optimizer of the longer training: an accuracy says little without it."""
    from nndiag.lab.bench import DEFAULT_LR

    training = scene.subject.training
    own = training.optimizer is None and not training.optimizer_args
    rate = training.lr or (DEFAULT_LR if own else None)
    name = training.optimizer or "adam"
    return (name if isinstance(name, str) else "the user's optimizer") + (f" at {rate:g}" if rate else "")
