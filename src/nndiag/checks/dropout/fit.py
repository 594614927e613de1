"""Can the model still fit with its dropout on? DRP201, by training it twice from the same start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.core.errors import NndiagError
from nndiag.core.findings import Evidence, Judged, Measurement, Series, Skip
from nndiag.core.findings import Step as Progress
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.dropout.case import Case
    from nndiag.core.findings import Observation

STEPS = 200
LEARNS = 0.5  # without dropout the loss must fall by this share, or the comparison says nothing
LEFT = 0.6  # share of that fall which dropout must leave
SHARE = 0.4  # of the remaining time for each of the two


def judge_fit(case: Case) -> Iterator[Observation]:
    """Yield both curves, and whether dropout stands in the way."""
    if not case.subject.run.wants("DRP201"):
        return
    if not case.subject.run.train:
        yield Skip("DRP201", "needs --train")
        return
    if not case.acting:
        yield Skip("DRP201", "no dropout acts")
        return
    if case.subject.data is not None and case.subject.data.synthetic:
        yield Skip("DRP201", "needs real data: invented targets cannot be learned")
        return
    try:
        yield from _compare(case)
    except NndiagError as error:
        yield Skip("DRP201", error.message)


def _compare(case: Case) -> Iterator[Observation]:
    from nndiag.lab.dropout_fit import fit

    steps = case.subject.training.steps or STEPS
    yield Progress("training with and without dropout", 0.7)
    fits = {}
    for name, dropped in (("with dropout", True), ("without dropout", False)):
        seconds = max(0.0, SHARE * case.subject.run.seconds_left)
        fits[name] = fit(case.subject, case.bench.batch, steps=steps, dropped=dropped, seconds=seconds)
        curve = fits[name].losses
        yield Series(
            f"training loss {name}", tuple(map(float, range(len(curve)))), tuple(curve), fits[name].loss, "step",
            group="training with and without dropout",
        )  # fmt: skip
    on, off = fits["with dropout"], fits["without dropout"]
    if on.ended == "budget" or off.ended == "budget":
        yield Skip("DRP201", "the time budget ended the training")
        return
    fall, kept = off.start - off.end, on.start - on.end
    yield Measurement("fit_without_dropout", off.end, off.loss)
    yield Measurement("fit_with_dropout", on.end, on.loss)
    if not fall > LEARNS * abs(off.start):
        yield Skip(
            "DRP201", f"without dropout the loss falls from {off.start:.3g} to {off.end:.3g} only in {steps} steps"
        )
        return
    yield Judged("DRP201")
    share = kept / fall
    if share < LEFT:
        yield found(
            "DRP201",
            f"with dropout the fit reaches {share:.0%} of what it reaches without ({on.end:.3g} against {off.end:.3g} "
            f"from {off.start:.3g} in {steps} steps)",
            where=case.acting[0].seen.where,
            evidence=Evidence(
                value=share, unit="share of the fall in loss", threshold=LEFT, n={"steps": steps, "samples": case.bench.rows},  # noqa: E501 - one sentence
                seed=case.subject.run.seed, detail="eval loss on the training batch, same start, same batches",
            ),
            means="the dropped capacity is what the model needs: it underfits for want of units, not of steps",
            fix="lower the largest p first, or widen the layers behind it",
        )  # fmt: skip
