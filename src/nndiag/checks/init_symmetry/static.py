"""What the weights alone say, for what no run has settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.checks.init_symmetry.groups import condition, mirror_finding, place, place_of
from nndiag.core.findings import Evidence, Judged
from nndiag.core.rules import found
from nndiag.core.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.init_symmetry.live import Scene
    from nndiag.core.findings import Finding, Observation
    from nndiag.lab.symmetry.groups import Mirror, Twins


def examine(scene: Scene) -> Iterator[Observation]:
    """Yield static findings unless the steps have settled them; the rules count as judged either way."""
    from nndiag.lab.symmetry.flow import zero_pairs
    from nndiag.lab.symmetry.groups import mirrors_of, twins_of

    judgement = scene.judgement
    settled = judgement is not None and judgement.trial.finite
    yield from (Judged(code) for code in ("SYM001", "SYM003"))
    flow = scene.signals.flow if scene.signals else None
    if flow is not None:
        yield Judged("SYM002")
    if settled:
        yield from _not_exercised(scene)
        return
    table = dict(scene.bench.start)
    pairs = zero_pairs(flow) if flow is not None else []
    zeroed = {name for pair in pairs for name in (pair.first, pair.second)}
    for pair in pairs:
        if scene.check.wants_layer(pair.first) or scene.check.wants_layer(pair.second):
            yield _kept(scene, _zero_finding(scene, pair.first, pair.second))
    learned = scene.bench.parameters
    for view in scene.views:
        if any(name not in learned for name in view.weights):
            continue  # frozen: a computed table, a fixed filter
        twins = twins_of(view, table, scene.check.tolerance)
        if twins is not None and place_of(view) not in zeroed and (kept := _trap(scene, twins)) is not None:
            yield _kept(scene, _twin_finding(scene, *kept))
        mirror = mirrors_of(view, table)
        if mirror is not None and (locked := _locked(scene, mirror)) is not None:
            yield _kept(scene, mirror_finding(scene, locked, measured=False))


def _not_exercised(scene: Scene) -> Iterator[Observation]:
    """Layers that the steps never reached: the run has settled nothing about them."""
    from nndiag.lab.symmetry.dead import unused
    from nndiag.lab.symmetry.groups import twins_of

    assert scene.judgement is not None
    idle = set(unused(scene.judgement.trial))
    for view in scene.views:
        if not idle.issuperset(view.weights):
            continue
        twins = twins_of(view, scene.bench.start, scene.check.tolerance)
        if twins is not None and _any_weight(scene, twins):
            yield _kept(scene, _twin_finding(scene, twins, "incoming weights identical; these inputs do not reach it"))


def _kept(scene: Scene, finding: Finding) -> Finding:
    scene.findings.append(finding)
    return finding


def _trap(scene: Scene, twins: Twins) -> tuple[Twins, str, str | None] | None:
    """The groups that no known outgoing weights tell apart; nothing for the model's own output."""
    from nndiag.lab.symmetry.flow import outgoing, refine
    from nndiag.lab.symmetry.groups import Twins as Groups

    words, readers = condition(scene, twins)
    far = outgoing(scene.signals.flow if scene.signals else None, twins.view, scene.bench.start)
    following = readers[0] if readers else None
    if far.answer:
        return None
    labels = far.labels()
    if labels is not None:
        left = refine(twins.groups, labels)
        return (Groups(twins.view, left), words, following) if left else None
    if not _any_weight(scene, twins):
        return None  # zero rows behind which nothing is known: zero gains, zero convolutions, pruned units
    return twins, words, following


def _any_weight(scene: Scene, twins: Twins) -> bool:
    rows = twins.view.rows(scene.bench.start)
    return any(bool(rows[group].any()) for group in twins.groups)


def _twin_finding(scene: Scene, twins: Twins, words: str, following: str | None = None) -> Finding:
    view = twins.view
    return found(
        "SYM001",
        f'{twins.size} of {view.units} units in "{view.label}" start identical: '
        f"{counted(twins.width, 'distinct unit')} ({words})",
        where=place(scene, place_of(view), following),
        evidence=Evidence(
            value=float(twins.width),
            unit="distinct units",
            threshold=float(view.units),
            n={"units": view.units},
            detail=f"groups {twins.shown()}",
        ),
        means="units with equal incoming and outgoing weights get equal gradients and stay one unit; equal incoming "
        "weights alone are no trap: steps on inputs that reach the layer tell",
        fix="use the default initialisation or nn.init.kaiming_normal_; Keras: kernel_initializer='he_normal'",
    )


def _zero_finding(scene: Scene, first: str, second: str) -> Finding:
    return found(
        "SYM002",
        f'"{first}" and "{second}" are both zero and in series',
        where=place(scene, first, second),
        evidence=Evidence(value=2.0, unit="zero factors", threshold=1.0, detail="nothing between them lifts a zero"),
        means="each factor's gradient is multiplied by the other one: neither ever moves",
        fix="leave one of the two random (LoRA: A random, B zero)",
    )


def _locked(scene: Scene, mirror: Mirror) -> Mirror | None:
    """The pairs that are read with opposite signs through odd activations only, as far as that is known."""
    import numpy as np

    from nndiag.lab.symmetry.flow import ODD, outgoing
    from nndiag.lab.symmetry.groups import Mirror as Pairs

    far = outgoing(scene.signals.flow if scene.signals else None, mirror.view, scene.bench.start)
    if any(name not in ODD for name in far.activations) or far.answer or far.columns is None:
        return None
    pairs = tuple(pair for pair in mirror.pairs if np.array_equal(far.columns[pair[0]], -far.columns[pair[1]]))
    return Pairs(mirror.view, pairs) if pairs else None
