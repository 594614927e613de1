"""One line per finding, for grep and editors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.render.words import one_line, place_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.core.report import Report
    from nndiag.render.look import Look


def render(reports: Sequence[Report], look: Look) -> str:
    """Return `file:line: CODE level [basis] module: message` for every finding, and a line for a check that failed."""
    lines = []
    for report in reports:
        if report.status == "failed":
            lines.append(f"{report.name or report.command}: {report.command} failed: {report.error}")
        for item in report.findings if look.show_suppressed else report.active:
            where = item.where
            file = where.file or report.name or report.command
            line = f":{where.line}" if where.line else ""
            module = place_of(where, utf8=look.utf8)
            lines.append(
                f"{file}{line}: {item.rule.code} {item.severity.word} [{item.rule.basis}] "
                f"{f'{module}: ' if module else ''}{item.message}"
                f"{f' (accepted: {item.suppressed})' if item.suppressed else ''}"
            )
    return "".join(f"{one_line(line, utf8=look.utf8)}\n" for line in lines)
