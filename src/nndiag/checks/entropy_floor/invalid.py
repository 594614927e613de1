"""ENT001: which rows are no labels, and what they probably are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.checks.entropy_floor.layout import BINARY, IDS
from nndiag.checks.entropy_floor.words import num, percent
from nndiag.core.findings import Evidence, Finding, Severity, Where
from nndiag.core.rules import found
from nndiag.science.entropy_rows import NEGATIVE, NONFINITE, OFF_SUM, ZERO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.checks.entropy_floor.measure import IdTotals, Measured
    from nndiag.science.entropy_rows import LabelTotals

GROSS = 0.1  # a sum further from one than this is no rounding and no truncation
NOTED_CLASSES = 1000  # vocabularies have gaps by nature


def invalid_labels(measured: Measured, name: str) -> Iterator[Finding]:
    """Yield what is wrong with the labels."""
    if measured.layout.kind == IDS and measured.ids is not None:
        yield from _ids(measured, measured.ids, name)
    elif measured.labels is not None:
        yield from _rows(measured, measured.labels, name)


def _finding(  # noqa: PLR0913 - a finding has these parts
    message: str,
    name: str,
    *,
    count: int,
    rows: int,
    detail: str,
    means: str,
    fix: str,
    severity: Severity | None = None,
) -> Finding:
    evidence = Evidence(value=float(count), unit="rows", threshold=0.0, n={"rows": rows}, detail=detail)
    return found("ENT001", message, where=Where(file=name), evidence=evidence, means=means, fix=fix, severity=severity)


def _rows(measured: Measured, totals: LabelTotals, name: str) -> Iterator[Finding]:
    word = "entry" if measured.layout.kind == BINARY else "row"
    rows = totals.rows

    def said(kind: str) -> tuple[int, str, str]:
        count = totals.bad[kind]
        many = f"{count} of {rows} {'entries' if word == 'entry' else 'rows'}"
        return count, many, f"the first is {word} {totals.first[kind]} (counted from 0)"

    if NONFINITE in totals.bad:
        count, many, first = said(NONFINITE)
        yield _finding(
            f"{many} hold NaN or infinity", name, count=count, rows=rows, detail=first,
            means="one such row makes the loss and every gradient NaN",
            fix="find where they arise (0/0 when votes are normalised?) and drop or repair these rows",
        )  # fmt: skip
    if NEGATIVE in totals.bad:
        count, many, first = said(NEGATIVE)
        if measured.layout.kind == BINARY:
            message, means = f"{many} lie outside [0, 1]", "the loss has no lower bound: a logit runs to infinity"
        else:
            message = f"{many} have negative entries (lowest {num(totals.least, 4)})"
            means = "the loss has no lower bound: training runs to minus infinity along that class"
        yield _finding(
            message, name, count=count, rows=rows, detail=first, means=means,
            fix="logits want a softmax, standardised labels their own scale back; otherwise clip and renormalise",
        )  # fmt: skip
    if ZERO in totals.bad:
        count, many, first = said(ZERO)
        yield _finding(
            f"{many} are all zero", name, count=count, rows=rows, detail=first,
            means="such a row adds nothing to the loss and yet counts in its mean: unlabelled samples or padding",
            fix="drop these rows, or mask them and divide by the rest; --loss bce if no class at all is a label",
        )  # fmt: skip
    if OFF_SUM in totals.bad:
        yield _off_sum(measured, totals, name, said(OFF_SUM))


def _off_sum(measured: Measured, totals: LabelTotals, name: str, said: tuple[int, str, str]) -> Finding:
    count, many, first = said
    low, high = totals.low, totals.high
    near = max(abs(low - 1.0), abs(high - 1.0))
    sums = f"sums {num(low, 4)} to {num(high, 4)}" if high - low > 1e-6 * high else f"sum {num(high, 4)}"
    means = (
        "each row's loss is multiplied by its sum s, its floor is s H(q/s) and its optimum q/s: rows weigh unequally"
    )
    fix = "divide every row by its sum: q / q.sum(1, keepdims=True)"
    if low >= 99.0 and high <= 101.0:
        fix = "these are percentages: divide by 100"
        means = "the loss and its gradients are 100 times too large"
    elif totals.integral and high > 1.5:
        fix = "these look like counts of votes: divide every row by its sum (token ids: save them as integers)"
    elif near > GROSS and totals.least >= 0 and high <= measured.classes:
        fix += "; if several classes may hold at once, the loss is --loss bce"
    return _finding(
        f"{many} do not sum to 1 ({sums})", name, count=count, rows=totals.rows,
        detail=f"{first}; {num(totals.tolerance, 2)} would be rounding",
        means=means, fix=fix, severity=Severity.WARNING if near <= GROSS else None,
    )  # fmt: skip


def _ids(measured: Measured, totals: IdTotals, name: str) -> Iterator[Finding]:
    rows = totals.seen
    high, negative = totals.bad.get("high", 0), totals.bad.get("negative", 0)
    if totals.bad.get("nonfinite"):
        count = totals.bad["nonfinite"]
        yield _finding(
            f"{count} of {rows} class ids are NaN or infinite", name, count=count, rows=rows,
            detail=f"the first is entry {totals.first['nonfinite']} (counted from 0)",
            means="empty cells, or a merge that found no label", fix="drop these rows or fill in their labels",
        )  # fmt: skip
    if totals.bad.get("fraction"):
        count = totals.bad["fraction"]
        yield _finding(
            f"{count} of {rows} class ids are no whole numbers", name, count=count, rows=rows,
            detail=f"the first is entry {totals.first['fraction']} (counted from 0)",
            means="the labels were scaled, averaged or are no class ids",
            fix="give ids 0 to C-1, or rows of probabilities; the targets of a regression have no entropy floor",
        )  # fmt: skip
    if high or negative:
        yield _out_of_range(measured, totals, name, high, negative)
    missing = int((totals.counts == 0).sum())
    open_count = measured.recipe.classes is None and measured.layout.columns == 1 and measured.losses is None
    if not high and open_count and missing and measured.classes <= NOTED_CLASSES:
        absent = [str(i) for i in range(measured.classes) if totals.counts[i] == 0]
        listed = ", ".join(absent[:8]) + (", …" if len(absent) > 8 else "")
        based = totals.lowest == 1 and missing == 1
        yield _finding(
            f"{missing} of {measured.classes} class ids never occur ({listed})", name, count=missing, rows=rows,
            detail=f"ids run from {num(totals.lowest)} to {num(totals.highest)}",
            means="ids from 1 on leave class 0 dead" if based else f"ln C and smoothing take C = {measured.classes}",
            fix="subtract 1 if ids start at 1" if based else "pass --classes, or map the ids that occur to 0 to C-1",
            severity=Severity.NOTE,
        )  # fmt: skip


def _out_of_range(measured: Measured, totals: IdTotals, name: str, high: int, negative: int) -> Finding:
    count, classes = high + negative, measured.classes
    one_based = totals.lowest == 1 and totals.highest == classes
    minus_one = negative and totals.lowest == -1 and not high
    fix = "map the ids to 0 to C-1, or correct the number of classes"
    if one_based:
        fix = f"ids run from 1 to {classes}: subtract 1"
    elif minus_one:
        fix = "if -1 marks samples to ignore, pass --ignore-index -1 (and ignore_index=-1 to the loss)"
    first = min(totals.first[kind] for kind in ("high", "negative") if kind in totals.first)
    return _finding(
        f"{count} of {totals.seen} class ids lie outside 0 to {classes - 1} ({percent(count / totals.seen)})", name,
        count=count, rows=totals.seen,
        detail=f"ids {num(totals.lowest)} to {num(totals.highest)}; the first is entry {first} (counted from 0)",
        means="cross_entropy raises on the CPU and asserts asynchronously on a GPU", fix=fix,
    )  # fmt: skip
