"""Does the advice run on the user's model, and how fast is its whole step then? What was not tried is not printed."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from nndiag.checks.embedding_cost.cures import Cure, order
from nndiag.checks.embedding_cost.timing import parallel, patient_of, shrunk_rows
from nndiag.checks.embedding_cost.words import duration
from nndiag.core.findings import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.checks.embedding_cost.model import ModelView
    from nndiag.core.findings import Scalar
    from nndiag.core.subject import Subject
    from nndiag.lab.embedding.cures import Patient, Ran

FIRST = ("current", "fused", "sparse", "bag", "bucket-view", "set-to-none", "split")  # then the others, by name
STEPS = 3  # of each cure, one of them to warm up; then one on padding only


def execute(  # noqa: PLR0913 - budgets, by name
    subject: Subject, view: ModelView, made: Sequence[Cure], *, clip: float | None, step: float, seconds: float
) -> list[Cure]:
    """Run the cures that can be switched on from outside, the most telling first, until the time is spent.

    Args:
        subject: With the model and the training.
        view: What is known about it.
        made: The present step and its cures.
        clip: Norm that is clipped to.
        step: Seconds of the whole step as it is.
        seconds: Time to spend, about.

    Returns:
        The cures in their order, with what stopped each and the whole step that it gives.
    """
    if view.watch is None or view.batch is None or subject.model is None:
        return list(made)
    if shrunk_rows(view):  # no time could be read of cut-down tables: only what is advised has to run
        seconds = 0.0
    begun = time.perf_counter()
    tried: dict[str, Cure] = {}
    for cure in sorted(made, key=lambda item: FIRST.index(item.key) if item.key in FIRST else len(FIRST)):
        late = time.perf_counter() - begun + (STEPS + 1) * step > seconds
        if late and cure.key not in {"fused", "sparse"}:  # these two are advised: they run in any case
            continue
        ran = _run(subject, view, cure, clip)
        if ran is not None:
            tried[cure.key] = replace(cure, refused=ran.refused, executed=not ran.refused, step=ran.seconds)
    return order([tried.get(cure.key, cure) for cure in made])


def _run(subject: Subject, view: ModelView, cure: Cure, clip: float | None) -> Ran | None:
    """Run one cure on a model of its own; None for what would need another model."""
    from nndiag.lab.embedding.cures import Ran
    from nndiag.lab.embedding.look import in_buckets

    rows = shrunk_rows(view)

    def tried(*, unused: bool) -> Ran | None:
        patient = patient_of(subject, view, cure.around, rows, clip=clip)
        if cure.around.gpus > 1 and not cure.spec.sparse:
            wrapped = in_buckets(patient.model, view=cure.around.bucket_view, unused=unused)
            patient = replace(patient, model=wrapped)
        return _apply(patient, view, cure)

    try:
        with parallel(cure.around, subject.run.device):
            ran = tried(unused=False)
            if ran is not None and ran.refused and cure.around.gpus > 1:  # a step may leave parameters out
                ran = tried(unused=True)
    except Exception as error:  # noqa: BLE001 - a cure that does not run is not advised
        ran = Ran((str(error).splitlines() or [""])[0] or type(error).__name__)
    return replace(ran, seconds=None) if ran is not None and rows else ran


def _apply(patient: Patient, view: ModelView, cure: Cure) -> Ran | None:
    from nndiag.lab.embedding import cures as lab

    if cure.key in {"fused", "foreach"}:
        return lab.run_switched(patient, cure.key)
    if cure.key in {"current", "set-to-none", "bucket-view"}:
        return patient.steps(patient.optimizers)
    if cure.key == "bag":
        site = next(site for site, spec in zip(view.sites, view.specs, strict=True) if spec.name == cure.spec.name)
        return lab.run_bag(patient, site.parameter)
    if cure.key == "row-wise":
        return lab.run_split(patient, lab.RowWiseAdagrad, sparse=True)
    if cure.spec.sparse or cure.key == "split":
        return lab.run_split(patient, lab.sparse_twin(cure.spec.optimizer.family, 1e-3), sparse=cure.spec.sparse)
    return None


def on_the_model(made: Sequence[Cure]) -> Table | None:
    """List what the cures did on the user's model; None where none was run."""
    ran = [cure for cure in made if cure.executed or cure.refused]
    if not ran:
        return None
    now = next((cure.step for cure in made if cure.key == "current"), None)
    rows: list[tuple[Scalar, ...]] = []
    for cure in ran:
        whole = duration(cure.step) if cure.step is not None else "not timed: its tables were cut down"
        against = f"{now / cure.step:.2f}x" if now and cure.step else ""
        rows.append((cure.name, cure.refused[:60] or "runs", whole if not cure.refused else "", against))
    return Table(
        "the cures run on this model: three steps and one on padding only",
        ("cure", "it", "whole step", "faster"),
        rows,
    )
