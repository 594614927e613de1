"""Can the model still fit with its dropout on? DRP201, by training it from one start with and without."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.core.errors import NndiagError
from nndiag.core.findings import Evidence, Judged, Measurement, Series, Skip
from nndiag.core.findings import Step as Progress
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.dropout.case import Case
    from nndiag.core.findings import Observation
    from nndiag.lab.dropout.fit import Fit

STEPS = 200
LEARNS = 0.5  # without dropout the loss must fall by this share, or the comparison says nothing
# Share of that fall which dropout must leave. Of 26 trainings (perceptrons, a convolutional net and an encoder on four
# small data sets and a function), the five below .7 all ended with 2 to 10 times the held-out loss of the same net
# without dropout; from .77 up the harmless begin (1.02 times at .77), mixed with the harmful as far as .91.
LEFT = 0.7
DRAWS = 3  # trainings with dropout, each with masks of its own: their spread is the interval


@dataclass(frozen=True)
class Shares:
    """What dropout leaves of the fall in loss: one number for each draw of the masks."""

    end: tuple[float, ...]
    half: tuple[float, ...]  # half way

    @property
    def mean(self) -> float:
        """Over the draws."""
        return sum(self.end) / len(self.end)

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by Student's t."""
        from scipy.special import stdtrit

        n = len(self.end)
        error = math.sqrt(sum((share - self.mean) ** 2 for share in self.end) / (n - 1) / n)
        width = float(stdtrit(n - 1, 0.975)) * error
        return self.mean - width, self.mean + width

    @property
    def doubled(self) -> float:
        """Where twice the steps would lead at the pace of the second half; training slows down, so at most there."""
        return self.mean + 2 * (self.mean - sum(self.half) / len(self.half))


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
    from nndiag.lab.dropout.fit import fit

    steps = case.subject.training.steps or STEPS
    yield Progress("training with and without dropout", 0.7)
    fits: list[Fit] = []
    for number, masks in enumerate((None, *range(DRAWS))):
        seconds = max(0.0, case.subject.run.seconds_left / (DRAWS + 1.5 - number))
        fits.append(fit(case.subject, case.bench.batch, steps=steps, masks=masks, seconds=seconds))
    off, *on = fits
    for name, run in (("with dropout", on[0]), ("without dropout", off)):
        yield Series(
            f"training loss {name}", tuple(map(float, range(len(run.losses)))), tuple(run.losses), run.loss, "step",
            group="training with and without dropout",
        )  # fmt: skip
    if any(run.ended == "budget" for run in fits):
        yield Skip("DRP201", "the time budget ended the training")
        return
    fall = off.start - off.end
    yield Measurement("fit_without_dropout", off.end, off.loss)
    yield Measurement("fit_with_dropout", sum(run.end for run in on) / DRAWS, off.loss)
    if not fall > LEARNS * abs(off.start):
        reason = f"without dropout the loss falls from {off.start:.3g} to {off.end:.3g} only in {steps} steps"
        yield Skip("DRP201", reason)
        return
    yield Judged("DRP201")
    shares = Shares(tuple((r.start - r.end) / fall for r in on), tuple((r.start - r.half) / fall for r in on))
    yield Measurement("fit_share", shares.mean, "share of the fall in loss", interval=shares.interval)
    if shares.interval[1] < LEFT:
        yield _finding(case, shares, fits, steps)


def _finding(case: Case, shares: Shares, fits: list[Fit], steps: int) -> Observation:
    off, *on = fits
    reached = sum(run.end for run in on) / len(on)
    return found(
        "DRP201",
        f"with dropout the fit reaches {shares.mean:.0%} of what it reaches without ({reached:.3g} against "
        f"{off.end:.3g} from {off.start:.3g} in {steps} steps)",
        where=max(case.acting, key=lambda site: site.p).seen.where,
        evidence=Evidence(
            value=shares.mean, unit="share of the fall in loss", interval=shares.interval, threshold=LEFT,
            n={"steps": steps, "samples": case.bench.rows, "draws": len(on)}, seed=case.subject.run.seed,
            detail="eval loss on the training batch, same start; interval over the draws of the masks",
        ),
        means="the dropped capacity is what the model needs: it underfits for want of units, not of steps"
        if shares.doubled < LEFT
        else f"in these steps it underfits; at its present pace twice as many would bring it to {shares.doubled:.0%}",
        fix="lower the largest p first, or widen the layers behind it",
    )  # fmt: skip
