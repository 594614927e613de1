"""Findings about whole modules that are copies of each other and stay so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.checks.init_symmetry.groups import place
from nndiag.core.findings import Evidence, Severity
from nndiag.core.rules import found
from nndiag.core.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.init_symmetry.live import Scene
    from nndiag.core.findings import Observation


def examine(scene: Scene) -> Iterator[Observation]:
    """Yield a finding for each group of copies that the first steps did not part."""
    from nndiag.lab.symmetry.copies import copies_of

    if scene.judgement is None:
        return
    trial = scene.judgement.trial
    for group in copies_of(scene.bench, trial, scene.check.tolerance):
        if not any(scene.check.wants_layer(name) for name in group.names):
            continue
        count = len(group.names)
        shown = ", ".join(f'"{name}"' for name in group.names[:4]) + (f" and {count - 4} more" if count > 4 else "")
        finding = found(
            "SYM201",
            f"{count} modules start as copies and stay copies: {shown}",
            where=place(scene, group.names[0]),
            evidence=Evidence(
                value=1.0,
                unit="distinct modules",
                threshold=float(count),
                n={"modules": count, "parameters": group.parameters, "steps": trial.steps, "samples": scene.rows},
                seed=scene.subject.run.seed,
                detail=f"after {counted(trial.steps, 'step')} their weights have moved alike to "
                f"{scene.check.tolerance:g} of the displacement",
            ),
            means="each gets the same gradient as the other, so together they do what one of them would do",
            fix="build each with its own draw instead of copy.deepcopy, one seed or one state dict for all; "
            "Keras: another seed in each kernel_initializer",
            severity=Severity.WARNING,
        )
        scene.findings.append(finding)
        yield finding
