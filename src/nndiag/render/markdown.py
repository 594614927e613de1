"""Markdown for a job summary or a comment: verdict, answers, findings, and what was skipped."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nndiag.core.report import worst_exit
from nndiag.render import phrases, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.core.findings import Finding, Table
    from nndiag.core.report import Report

MAX_ROWS = 30
MAX_FINDINGS = 100
SIGNS = {"error": "❌", "warning": "⚠️", "note": "ℹ️", "ok": "✅", "skipped": "➖"}
SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~$@-])")


def render(reports: Sequence[Report]) -> str:
    """Return GitHub-flavoured Markdown; whatever comes from outside is escaped."""
    level = min((phrases.state(report) for report in reports), key=list(SIGNS).index, default="skipped")
    names = dict.fromkeys(report.name for report in reports if report.name)
    title = reports[0].command if len(reports) == 1 else "nndiag all"
    blocks = [f"## {SIGNS[level]} {title}: {phrases.tally(reports)}"]
    if names:
        blocks.append(" · ".join(code(name) for name in list(names)[:4]))
    if len(reports) > 1:
        rows = [_answer(report) for report in reports]
        blocks.append(_grid(("", "check", "answer", "found"), rows))
    for report in reports:
        blocks += _report(report, alone=len(reports) == 1)
    exit_code = worst_exit([report.exit_code for report in reports])
    blocks.append(f"exit code {exit_code}")
    return "\n\n".join(blocks) + "\n"


def _answer(report: Report) -> tuple[str, ...]:
    level = phrases.state(report)
    said = " ".join(map(words.sentence, report.answers)) or report.error or report.empty
    return (SIGNS[level], f"**{report.command}**", text(said), phrases.tally([report]))


def _report(report: Report, *, alone: bool) -> list[str]:
    blocks = [] if alone else [f"### {SIGNS[phrases.state(report)]} {report.command}"]
    if alone:
        blocks += [text(words.sentence(answer)) for answer in report.answers]
    if report.status == "failed":
        blocks.append(f"**Could not run:** {text(report.error)}")
    if report.empty:
        blocks.append(f"**Nothing applicable:** {text(report.empty)}")
    if report.context:
        blocks.append(" · ".join(text(part) for part in report.context))
    blocks += [_table(table) for table in report.tables if table.main]
    blocks += [_finding(item) for item in report.active[:MAX_FINDINGS]]
    if len(report.active) > MAX_FINDINGS:
        blocks.append(f"… and {len(report.active) - MAX_FINDINGS} more findings, in the JSON")
    accepted = [item for item in report.findings if item.suppressed]
    if accepted:
        listed = "\n".join(f"- {item.rule.code} {text(item.message)}: {text(item.suppressed)}" for item in accepted)
        blocks.append(_folded(f"{len(accepted)} accepted", listed))
    blocks.append(_coverage(report))
    return blocks


def _finding(item: Finding) -> str:
    level = item.severity.word
    place = f"{item.where.file}:{item.where.line}" if item.where.file and item.where.line else item.where.file or ""
    where = [code(place)] if place else []
    if item.where.module:
        where.append(f"module {code(item.where.module)}" + (f" → {code(item.where.next)}" if item.where.next else ""))
    lines = [f"#### {SIGNS[level]} {level} {item.rule.code}: {text(item.message)}", ""]
    for label, value in (
        ("where", " · ".join(where)),
        ("evidence", f"{text(phrases.proof(item))} ({item.rule.basis})"),
        ("means", text(item.means)),
        ("fix", text(item.fix)),
    ):
        if value:
            lines.append(f"- **{label}** {value}")
    return "\n".join(lines)


def _coverage(report: Report) -> str:
    checked = words.ranges(report.checked) or "nothing"
    skipped = phrases.reasons(report)
    if not skipped:
        return f"checked {checked}"
    listed = "\n".join(f"- {names}: {text(reason)}" for names, reason in skipped)
    count = len({skip.code for skip in report.skipped})
    return f"checked {checked}\n\n" + _folded(f"{count} skipped", listed)


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _table(table: Table) -> str:
    rows = [[_cell(column, value) for column, value in zip(table.columns, row, strict=False)] for row in table.rows]
    shown = _grid([text(column) for column in table.columns], rows[:MAX_ROWS])
    if len(rows) > MAX_ROWS:
        shown += f"\n\n… and {len(rows) - MAX_ROWS} more rows, in the JSON"
    return f"**{text(table.title)}**\n\n{shown}"


def _cell(column: str, value: object) -> str:
    if column == "status" and value in SIGNS:
        return f"{SIGNS[str(value)]} {value}"
    return "" if value is None else text(phrases.number(value))


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(value: str) -> str:
    r"""Return outside text on one line that Markdown shows as it is.

    Example:
        >>> text("a|b <b> `c`")
        'a\\|b \\<b\\> \\`c\\`'
    """
    return SPECIAL.sub(r"\\\1", phrases.clean(value).replace("&", "&amp;"))


def code(value: str) -> str:
    """Return outside text as code; with a fence longer than any run of backticks in it."""
    value = phrases.clean(value).replace("|", "¦")
    fence = "`" * (max((len(run) for run in re.findall("`+", value)), default=0) + 1)
    pad = " " if len(fence) > 1 else ""
    return f"{fence}{pad}{value}{pad}{fence}"
