"""The terminal report: answer first, then the table, the curves, the findings, what was covered, the verdict."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from nndiag.core.findings import Finding, Measurement, Series, Severity, Table
from nndiag.core.report import worst_exit
from nndiag.render.words import (
    argued,
    cell,
    clean,
    counts,
    number,
    one_line,
    place_of,
    proof,
    ranges,
    sentence,
    skips_by_reason,
    spark,
    title_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nndiag.core.report import Report
    from nndiag.render.look import Look

MARKS = {"error": "✗", "warning": "!", "note": "i", "ok": "✓", "skipped": "–"}
STYLES = {"error": "bold bright_red", "warning": "yellow", "note": "cyan", "ok": "green", "skipped": "dim"}
CURVES_SHOWN = 4
ROWS_SHOWN = 24  # of the main table; rows with something to say come first
SPARK_WIDTH = 40
PEAK = 1.5  # a curve's highest point, in its ends: told from here on
ASCII_HEAD = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)  # a line under the head, as above


def render(reports: Sequence[Report], look: Look) -> str:
    """Return the reports one below the other."""
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=look.width,
        force_terminal=look.color,
        color_system="standard" if look.color else None,
        no_color=not look.color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    for index, report in enumerate(reports):
        if index:
            console.print()
        for part in _parts(report, look):
            console.print(part)
    if len(reports) > 1:
        console.print()
        console.print(_overall(reports, _Writer(look)))
    lines = buffer.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _parts(report: Report, look: Look) -> Iterator[RenderableType]:
    say = _Writer(look)
    if not look.quiet:
        yield Text.assemble(("nndiag ", "bold"), (say(report.command), "bold"), "  ", say.line(report.name))
        context = [part for part in report.context if part != report.name]
        context += [report.run.device, f"seed {report.run.seed}"]
        yield Text(say(" · ".join(context)), style="dim")
        for answer in report.answers:
            yield Text()
            yield Text(say(sentence(answer)), style="bold")
        yield from _tables(report, look, say)
        yield from _curves(report, look, say)
    findings = report.findings if look.show_suppressed else report.active
    for found in findings:
        if not look.quiet or found is not findings[0]:
            yield Text()
        yield _finding(found, say)
    if not look.quiet:
        yield Text()
        yield from _coverage(report, say)
    yield _verdict(report, say)


class _Writer:
    """Foreign text made safe for this terminal."""

    def __init__(self, look: Look) -> None:
        self.utf8 = look.utf8

    def __call__(self, text: str) -> str:
        return clean(text, utf8=self.utf8)

    def line(self, text: str) -> str:
        return one_line(text, utf8=self.utf8)


def _tables(report: Report, look: Look, say: _Writer) -> Iterator[RenderableType]:
    shown = [table for table in report.tables if table.rows and (table.main or look.verbose)]
    for table in shown:
        yield Text()
        if table.title and not table.main:
            yield Text(say(table.title), style="bold")
        kept = table if look.verbose else _folded(table)
        yield _grid(kept, look, say)
        if len(kept.rows) < len(table.rows):
            yield Text(say(f" … and {len(table.rows) - len(kept.rows):,} more rows; -v shows them"), style="dim")
    if report.measurements and (look.verbose or not shown):
        yield Text()
        yield _grid(_as_table(report.measurements), look, say)


def _folded(table: Table) -> Table:
    """Return the table with at most `ROWS_SHOWN` rows, in their order: those that are not "ok" before the others."""
    if len(table.rows) <= ROWS_SHOWN:
        return table
    status = list(table.columns).index("status") if "status" in table.columns else None
    quiet = [status is not None and row[status] == "ok" for row in table.rows]
    chosen = sorted(sorted(range(len(quiet)), key=lambda index: (quiet[index], index))[:ROWS_SHOWN])
    return replace(table, rows=[table.rows[index] for index in chosen])


def _as_table(measurements: Sequence[Measurement]) -> Table:
    rows = []
    for item in measurements:
        interval = f"{number(item.interval[0])}–{number(item.interval[1])}" if item.interval else ""
        rows.append((item.name.replace("_", " "), item.where, item.value, item.unit, interval))
    columns = ("measured", "where", "value", "unit", "95 % interval")
    used = [index for index in range(len(columns)) if index in (0, 2) or any(row[index] for row in rows)]
    return Table("measurements", [columns[i] for i in used], [[row[i] for i in used] for row in rows])


def _grid(table: Table, look: Look, say: _Writer) -> RenderableType:
    grid = Grid(
        box=box.SIMPLE_HEAD if look.utf8 else ASCII_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 2 if look.width >= 80 else 1, 0, 0),
        header_style="bold",
        border_style="dim",
    )
    for index, name in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        numeric = any(_is_number(value) for value in cells) and all(
            value is None or _is_number(value) for value in cells
        )
        grid.add_column(
            Text(say(name)),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=numeric and look.width >= 60,
        )
    for row in table.rows:
        grid.add_row(*(_cell(value, name, say) for value, name in zip(row, table.columns, strict=True)))
    return Padding(grid, (0, 0, 0, 1))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object, column: str, say: _Writer) -> Text:
    text = cell(value)  # type: ignore[arg-type]
    if column == "status" and text in MARKS:
        return Text(f"{say(MARKS[text])} {text}", style=STYLES[text])
    return Text(say(text))


def _curves(report: Report, look: Look, say: _Writer) -> Iterator[RenderableType]:
    curves = [item for item in report.series if item.kind in ("line", "step") and len(set(item.y)) > 1]
    shown = curves if look.verbose else curves[:CURVES_SHOWN]
    if not shown:
        return
    yield Text()
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    told = [(say.line(item.name.replace("_", " ")), say(_ends(item))) for item in shown]
    around = max(len(name) for name, _ in told) + max(len(ends) for _, ends in told) + 9  # margins and threshold
    width = max(8, min(SPARK_WIDTH, look.width - around))
    for item, (name, ends) in zip(shown, told, strict=True):
        grid.add_row(Text(name), _curve(item, width, look, say), Text(ends, style="dim"))
    yield Padding(grid, (0, 0, 0, 1))


def _ends(item: Series) -> str:
    limit = "" if item.threshold is None else f", ┊ at {number(item.threshold)}"
    first, last = item.y[0], item.y[-1]
    most = max((value for value in item.y if math.isfinite(value)), default=first)
    peak = f", peak {number(most)}" if most > PEAK * max(abs(first), abs(last)) else ""
    shown = item.unit and item.unit not in item.name.replace("_", " ").split()
    return f"{number(first)} → {number(last)}{f' {item.unit}' if shown else ''}{peak}{limit}"


def _curve(item: Series, width: int, look: Look, say: _Writer) -> Text:
    drawn, mark = spark(item.y, width, item.threshold, utf8=look.utf8)
    curve = Text(drawn, style="bright_blue")
    if mark:
        curve.append(say(f" ┊{mark}"), style="dim")
    return curve


def _finding(item: Finding, say: _Writer) -> RenderableType:
    level = "skipped" if item.suppressed else item.severity.word
    head = Text(f"{say(MARKS[level])} {item.rule.code} {say(title_of(item))}", style=STYLES[level])
    head.append(f"  [{item.rule.basis}]", style="dim")
    if item.suppressed:
        head.append(say(f"  accepted: {item.suppressed}"), style="dim")
    grid = Grid.grid(padding=(0, 1, 0, 0))
    grid.add_column(justify="right", min_width=10, style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    parts = (
        ("where", _where(item, say)),
        ("evidence", argued(item.message, proof(item.evidence))),
        ("means", item.means),
        ("fix", item.fix),
    )
    for label, text in parts:
        if text:
            grid.add_row(label, Text(say(text)))
    return Group(head, grid)


def _where(item: Finding, say: _Writer) -> str:
    where = item.where
    file = f"{where.file}:{where.line}" if where.file and where.line else where.file or ""
    parts = [file, place_of(where, utf8=say.utf8), f"({where.cls})" if where.cls else ""]
    return "  ".join(one_line(part) for part in parts if part)


def _coverage(report: Report, say: _Writer) -> Iterator[RenderableType]:
    if report.checked:
        yield Text(f"checked {ranges(report.checked)}", style="dim")
    for codes, reason in skips_by_reason(report):
        yield Text(say(f"skipped {codes}: {reason}"), style="dim")
    if report.empty:
        yield Text(say(f"! nothing to judge: {report.empty}"), style="yellow")


def _verdict(report: Report, say: _Writer) -> Text:
    if report.status == "failed":
        return Text(say(f"✗ failed: {report.error} · exit {report.exit_code}"), style=STYLES["error"])
    fail_on = report.fail_on.word if report.fail_on else "never"
    worst = max((item.severity for item in report.active), default=None)
    nothing = "skipped" if report.empty else "ok"
    word = nothing if worst is None else Severity(worst).word
    mark = f"{MARKS[word]} " if word == "ok" else ""
    said = "nothing judged" if report.empty and not report.findings else counts(report)
    budget = " · stopped by the time budget" if report.status == "truncated" else ""
    return Text(say(f"{mark}{said} · fail-on {fail_on} · exit {report.exit_code}{budget}"), style=STYLES[word])


def _overall(reports: Sequence[Report], say: _Writer) -> Text:
    """Return the verdict over several reports: the last line, which is what people look at."""
    judged = [report for report in reports if not report.empty and report.status != "failed"]
    failed = [report.command for report in reports if report.status == "failed"]
    idle = [report.command for report in reports if report.empty and not report.findings]
    active = [found for report in reports for found in report.active]
    worst = max((found.severity for found in active), default=None)
    parts = [f"{counts(*reports)} in {len(judged)} check{'s' if len(judged) != 1 else ''}"]
    parts += [f"{', '.join(failed)} failed"] if failed else []
    parts += [f"{', '.join(idle)} had nothing to judge"] if idle else []
    level = reports[0].fail_on
    code = worst_exit([report.exit_code for report in reports])
    parts += [f"fail-on {level.word if level else 'never'}", f"exit {code}"]
    style = STYLES["error"] if failed else STYLES[Severity(worst).word if worst is not None else "ok"]
    return Text.assemble(("all  ", "bold"), (say(" · ".join(parts)), style))
