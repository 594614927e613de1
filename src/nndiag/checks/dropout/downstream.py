"""What dropout does further on: DRP105 into batch norm, DRP108 along attention rows, and in the loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nndiag.checks.dropout.case import is_path
from nndiag.checks.dropout.placed import place
from nndiag.core.findings import Evidence, Judged, Measurement, Severity, Skip
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.dropout.case import Case
    from nndiag.core.findings import Observation
    from nndiag.lab.dropout.flow import NormShift, RowCollapse
    from nndiag.lab.dropout.graph import Key
    from nndiag.lab.dropout.sites import Site

# Shares of limit - 1 over one: a note from 1.3 on, a warning from the limit of 1.5, an error from 2. Published networks
# that train well as they are put up to 1.6x into batch norm (PointNet's classifier 1.54x, pix2pix's decoder 1.57x, wide
# ResNets 1.4x); at 2x batch norm puts out .71 of the standard deviation that the layers behind it were trained on.
# Straight into batch norm the ratio is 1/(1-p) or more whatever the weights become. Behind a sum (linear map, residual,
# pool) it is 1 + p/q Σw²E[x²]/Var(w·x), a matter of the weights (Li et al. 2019) that nobody knows before
# they are trained: measured on initial weights or invented inputs it is a warning at most.
NOTE_SHARE, ERROR_SHARE = 0.6, 2.0
NEAREST = 6  # sites tried one by one per batch norm
PEAKED = 0.5  # share of attention rows that hang on one key


def judge_norms(case: Case, limit: float) -> Iterator[Observation]:
    """Yield the variance ratio into every batch norm that dropout reaches."""
    reached = [site for site in case.acting if site.norms and not is_path(site)]
    if not reached or case.flow is None:
        reason = "no dropout reaches a batch norm that learns running statistics"
        if case.bench.rows < 2 and case.bench.learning:
            reason = "one sample has no batch statistics"
        yield Skip("DRP105", case.or_late(reason) if reached else reason)
        return
    yield Judged("DRP105")
    least = 1 + NOTE_SHARE * (limit - 1)
    for site, shift in worst_per_site(case, reached, least):
        predicted = _prediction(case, site)
        yield Measurement("variance_ratio", shift.ratio, "ratio", site.label, shift.interval)
        if not math.isnan(predicted):
            yield Measurement("variance_ratio_predicted", predicted, "ratio", site.label)
        if shift.ratio >= least and site.seen.key not in {seen.key for seen in case.verdict.acting}:
            yield _shift_finding(case, site, shift, predicted, limit)


def worst_per_site(case: Case, reached: list[Site], least: float) -> list[tuple[Site, NormShift]]:
    """For each site the batch norm it disturbs most, measured alone where several dropouts reach the same one."""
    flow = case.flow
    assert flow is not None
    table: dict[int, tuple[Site, NormShift]] = {}
    for key, shift in flow.shifts.items():
        sources = [site for site in reached if any(norm.key == key for norm in site.norms)]
        alone = _one_by_one(case, sources, key, shift) if len(sources) > 1 and shift.ratio >= least else {}
        if not any(item.ratio >= least for item in alone.values()) and alone:
            nearest = max(alone, key=lambda number: alone[number].ratio)
            alone[nearest] = shift  # no one dropout does it, all together do: the largest stands for them
        for number, site in enumerate(sources):
            own = alone.get(number, shift) if len(sources) > 1 and alone else shift
            if len(sources) > 1 and not alone and site is not sources[-1]:
                continue
            known = table.get(id(site))
            if known is None or own.ratio > known[1].ratio:
                table[id(site)] = (site, own)
    return [table[id(site)] for site in reached if id(site) in table]


def _one_by_one(case: Case, sources: list[Site], key: Key, shift: NormShift) -> dict[int, NormShift]:
    from nndiag.lab.dropout.flow import natural

    assert case.lab is not None
    found_: dict[int, NormShift] = {}
    for number in range(len(sources) - 1, max(-1, len(sources) - 1 - NEAREST), -1):
        if case.subject.run.seconds_left <= 0:
            case.cut = "the dropouts in front of one batch norm were told apart"
            break
        flow = natural(case.lab, max(4, case.masks // 2), None, only=frozenset({sources[number].seen.key}))
        found_[number] = flow.shifts.get(key, shift)
    return found_


def _prediction(case: Case, site: Site) -> float:
    from nndiag.lab.dropout.flow import predicted_shift

    return predicted_shift(case.lab, site) if case.lab is not None else math.nan


def _shift_finding(case: Case, site: Site, shift: NormShift, predicted: float, limit: float) -> Observation:
    from nndiag.science.rescale_shift import rate_for_ratio

    bn = shift.norm.owner
    loose = _may_fall(case, site, shift)
    severity = _by_size(shift, limit, loose=loose)
    reached = len(shift.channels)
    channels = (
        f"{reached} channels" if reached == shift.total else f"the {reached} of {shift.total} channels it reaches"
    )
    lower = rate_for_ratio(shift.ratio, site.p, min(1.2, limit)) if site.p < 1 and shift.ratio > 1 else math.nan
    closed = "" if math.isnan(predicted) else f"; closed form {predicted:.3g}"
    return found(
        "DRP105",
        f"variance entering '{bn}' is {shift.ratio:.2f}x larger in training than in eval",
        where=place(case, site, bn),
        evidence=Evidence(
            value=shift.ratio, unit="ratio", interval=shift.interval,
            threshold=1 + NOTE_SHARE * (limit - 1) if severity is Severity.NOTE else limit,
            n={"samples": case.bench.rows, "masks": shift.masks}, seed=case.subject.run.seed,
            detail=f"median over {channels}{closed}{f'; {loose}' if loose else ''}",
        ),
        means=f"running_var is learned with dropout on; in eval '{bn}' puts out "
              f"{1 / math.sqrt(shift.ratio):.2f} of the standard deviation that training saw",
        fix=f"move dropout after the last batch norm, or lower p (p = {lower:.2g} would give {min(1.2, limit):.2g}x), "
            "or re-estimate the running statistics with dropout off",
        severity=severity,
    )  # fmt: skip


def _may_fall(case: Case, site: Site, shift: NormShift) -> str:
    """Why the ratio is not yet that of the network in use; empty where it is, or where no weights could undo it."""
    if case.map.straight(site, shift.norm):
        return ""
    if shift.norm.owner not in case.settled:
        return "behind a sum, on weights not yet trained"
    invented = case.subject.data is not None and case.subject.data.synthetic
    return "behind a sum, on invented inputs" if invented else ""


def _by_size(shift: NormShift, limit: float, *, loose: str) -> Severity:
    """An error, a warning or a note, each only where the whole interval is beyond its limit."""
    if shift.interval[0] > 1 + ERROR_SHARE * (limit - 1) and not loose:
        return Severity.ERROR
    return Severity.WARNING if shift.interval[0] > limit else Severity.NOTE


def judge_attention(case: Case) -> Iterator[Observation]:
    """Yield how often attention rows lose their mass."""
    if not case.rows:
        yield Skip("DRP108", case.or_late("no dropout acts on attention weights"))
        return
    enough = [row for row in case.rows if row.rows]
    if not enough:
        yield Skip("DRP108", "no attention row has eight keys or more")
        return
    yield Judged("DRP108")
    for row in enough:
        yield Measurement("attention_effective_keys", row.effective_keys, "keys", row.site.label)
        yield Measurement("attention_row_collapse", row.chance, "probability", row.site.label)
    worst = [row for row in enough if row.site.p >= 0.05 and row.peaked >= PEAKED and row.chance >= PEAKED * row.site.p]
    if worst:
        yield _collapse(case, worst)


def _collapse(case: Case, rows: list[RowCollapse]) -> Observation:
    row = max(rows, key=lambda item: item.chance)
    site = row.site
    others = f" (and in {len(rows) - 1} more layers)" if len(rows) > 1 else ""
    return found(
        "DRP108",
        f"{row.peaked:.0%} of the attention rows hang on one key{others}: with p = {site.p:.3g} a row loses more than "
        f"half its mass in {row.chance:.1%} of the passes",
        where=place(case, site),
        evidence=Evidence(
            value=row.chance, unit="probability", threshold=PEAKED * site.p,
            n={"rows": row.rows}, detail=f"closed form over rows with eight keys or more; "
                                         f"median effective keys {row.effective_keys:.1f}",
        ),
        means="the head's output then is nearly zero for that token, and 1/(1-p) does not bring it back",
        fix="lower the attention dropout, or put dropout on the values or on the output of the block instead",
    )  # fmt: skip


def report_loss(case: Case) -> Iterator[Observation]:
    """Yield the gap between training and eval loss that dropout alone opens."""
    gap = case.flow.gap if case.flow is not None else None
    if gap is None:
        return
    half = 1.96 * gap.error
    yield Measurement("loss_eval", gap.eval_loss, case.loss_name or "loss")
    yield Measurement(
        "loss_train", gap.train_loss, case.loss_name or "loss", "", (gap.train_loss - half, gap.train_loss + half)
    )
    yield Measurement("loss_gap", gap.gap, case.loss_name or "loss", "", (gap.gap - half, gap.gap + half))
