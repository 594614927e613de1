"""Does training pass on the same mean as eval? DRP103, DRP104."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nndiag.checks.dropout.case import is_augmentation
from nndiag.checks.dropout.placed import more, once, place
from nndiag.core.findings import Evidence, Judged, Measurement, Severity, Skip
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.dropout.case import Case
    from nndiag.core.findings import Observation
    from nndiag.lab.dropout.measure import Gauge
    from nndiag.lab.dropout.sites import Site

ERRORS = 5.0  # standard errors between the verdicts
ALIGNED = 0.9999  # cosine between what training passes on with dropout off and what eval passes on
SHARE = 0.25  # of the gap between 1 and 1-p that must be there


def judge_scale(case: Case) -> Iterator[Observation]:
    """Yield the slope of every site, and those that are not one."""
    judged = False
    for sites in once(case.acting):
        for site in sites:
            gauge = case.gauge(site)
            if gauge is None:
                continue
            reason = unclear(gauge)
            if reason:
                if reason != SILENT:
                    yield Skip("DRP103", reason, site.label)
                    yield Skip("DRP104", reason, site.label)
                continue
            judged = True
            half = 1.96 * gauge.error
            yield Measurement(
                "train_eval_slope", gauge.slope, "ratio", site.label, (gauge.slope - half, gauge.slope + half)
            )
        wrong = [s for s in sites if (g := case.gauge(s)) is not None and not unclear(g) and is_off(g)]
        told = [s for s in wrong if explained(case, s)]
        for site in told:
            reason = "what feeds it directly has the wrong scale itself, and both show only together"
            yield Skip("DRP103", reason, site.label)
            yield Skip("DRP104", reason, site.label)
        wrong = [s for s in wrong if s not in told]
        if wrong and not is_augmentation(wrong[0]):
            yield _finding(case, wrong)
    if judged:
        yield Judged("DRP103")
        yield Judged("DRP104")
    elif not case.measured:
        yield Skip("DRP103", case.or_late(""))
        yield Skip("DRP104", case.or_late(""))


SILENT = "-"


def unclear(gauge: Gauge) -> str:  # noqa: PLR0911 - one line per reason
    """Why a slope says nothing here; empty when it does."""
    from nndiag.lab.dropout.ops import ALPHA, RECURRENT

    site = gauge.site
    if site.seen.variant in RECURRENT:
        return f"nothing can be watched inside torch's {site.seen.variant.upper()}, which rescales by itself"
    if site.seen.variant in ALPHA:
        return SILENT  # its slope is not one by design
    if site.p >= 1:
        return "p = 1 passes nothing on"
    if gauge.why:
        return gauge.why
    if gauge.reference is not None and not bool(gauge.reference.any()):
        return "what it feeds is zero everywhere in eval mode: no scale shows"
    plain = not site.seen.handmade and not site.anchor.scaled  # torch's own rescale, and nothing scales behind it
    if gauge.reference is None or not gauge.slopes:
        return SILENT if plain else "what it feeds has no counterpart in eval mode"
    if not gauge.fit > (ALIGNED if gauge.reference.dtype.itemsize >= 4 else 0.999):
        return SILENT if plain else "what it feeds differs between training and eval for other reasons"
    if ERRORS * gauge.error > site.p * max(1.0, gauge.slope):
        return f"{len(gauge.slopes)} masks do not tell 1 from 1-p = {1 - site.p:.3g}; give more with --masks"
    return ""


def is_off(gauge: Gauge) -> bool:
    """Whether the slope is clearly not one."""
    away = abs(gauge.slope - 1)
    return away > ERRORS * gauge.error and away > SHARE * gauge.site.p


def explained(case: Case, site: Site) -> bool:
    """Whether a dropout right in front, found wrong where it stands a second time, hands its wrong scale on.

    A mask that eval skips has no counterpart there: the scale of what it reads is first seen behind it.
    """
    front = [s for s in case.acting if s.anchor.step is not None and s.anchor.step.index == site.seen.index]
    places = {(s.seen.where.module, s.seen.where.line) for s in front}
    return any(
        (s.seen.where.module, s.seen.where.line) in places and is_off(gauge)
        for s in case.acting
        if s is not site and (gauge := case.gauge(s)) is not None and not unclear(gauge)
    )


def whole_parts(site: Site) -> str:
    """What a hand-written mask takes away whole, from something that is not a residual sum; empty if it thins.

    What is left is an input of the kind eval sees, not a thinner one: modality dropout, a dropped condition, masked
    patches. No sum shrinks, so no rescale is called for; a branch that is added to its shortcut is another matter.
    """
    from nndiag.lab.dropout.ops import ROW, SAMPLE, WHOLE

    if not site.seen.handmade or site.anchor.kind == "add":
        return ""
    return {SAMPLE: "samples", WHOLE: "batches", ROW: "tokens"}.get(site.seen.dial.unit, "")


def _finding(case: Case, wrong: list[Site]) -> Observation:
    site = wrong[0]
    gauge = case.gauge(site)
    assert gauge is not None
    a, q = gauge.slope, 1 - site.p
    half = 1.96 * gauge.error
    low = a < 1
    expected = q if low else 1 / q
    near = math.isclose(a, expected, rel_tol=0.05, abs_tol=4 * gauge.error)
    reading = f"{'1-p' if low else '1/(1-p)'} = {expected:.3g}"
    tail = f", which is {reading}" if near else f" ({reading})"
    whole = whole_parts(site) if low else ""
    if whole:
        means = f"whole {whole} are taken away: right if the model is to do without them, where a rescale has no place"
    else:
        size = f"{1 / a:.3g}x larger" if low else f"{a:.3g}x smaller"
        means = f"behind it everything is {size} in eval than it was trained on"
    return found(
        "DRP103" if low else "DRP104",
        f"training passes on {a:.3g} of what eval passes on{more(wrong)}{tail}",
        where=place(case, site),
        evidence=Evidence(
            value=a, unit="slope", interval=(a - half, a + half), threshold=1.0,
            n={"samples": case.bench.rows, "masks": len(gauge.slopes)}, seed=case.subject.run.seed,
            detail="mean training value on eval value, at what reads the dropout",
        ),
        severity=Severity.NOTE if whole else None,
        means=means,
        fix=(
            "divide by 1-p in training (nn.Dropout does), or multiply by 1-p in eval; not both"
            if low
            else "divide by 1-p once: nn.Dropout and F.dropout already do (Keras Dropout too)"
        ),
    )  # fmt: skip
