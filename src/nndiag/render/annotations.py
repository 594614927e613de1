"""Annotations beside the code: GitHub workflow commands and GitLab's code-quality report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import unquote

from nndiag.core.findings import Severity
from nndiag.render import phrases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.core.findings import Finding
    from nndiag.core.report import Report

GITHUB = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}
GITLAB = {Severity.ERROR: "major", Severity.WARNING: "minor", Severity.NOTE: "info"}


def render_github(reports: Sequence[Report]) -> str:
    """Return one workflow command per finding that nobody has accepted.

    GitHub shows ten of each level per step, so the worst come first across checks.
    """
    lines = [_command("error", "", 0, f"nndiag {r.command}", r.error) for r in reports if r.status == "failed"]
    pairs = [(report, item) for report in reports for item in report.active]
    for report, item in sorted(pairs, key=lambda pair: -pair[1].severity):
        path, line, real = phrases.uri(report, item.where)
        title = f"{item.rule.code} {item.rule.name}"
        lines.append(_command(GITHUB[item.severity], unquote(path), line, title, _body(item, real=real)))
    return "".join(line + "\n" for line in lines)


def _command(level: str, path: str, line: int, title: str, text: str) -> str:
    place = f"file={_property(path)},line={line}," if path else ""
    return f"::{level} {place}title={_property(title)}::{_data(text)}"


def _body(item: Finding, *, real: bool) -> str:
    where = phrases.place(item.where)
    parts = [item.message, where if where and not real else "", f"evidence: {phrases.proof(item)}"]
    parts += [f"means: {item.means}" if item.means else "", f"fix: {item.fix}" if item.fix else ""]
    return "\n".join(part for part in parts if part and part != "evidence: ")


def _data(text: str) -> str:
    """Escape as the runner unescapes a message: percent first, then line breaks."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape as the runner unescapes a property: also colon and comma."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def render_gitlab(reports: Sequence[Report]) -> str:
    """Return GitLab's code-quality JSON: an array, one issue per finding that nobody has accepted."""
    issues = []
    for report in reports:
        for item in report.active:
            path, line, real = phrases.uri(report, item.where)
            where = phrases.place(item.where)
            suffix = f" [{where}]" if where and not real else ""
            issues.append(
                {
                    "description": f"{item.rule.code} {item.message}{suffix}. Fix: {item.fix}",
                    "check_name": item.rule.code,
                    "fingerprint": item.fingerprint,
                    "severity": GITLAB[item.severity],
                    "location": {"path": unquote(path), "lines": {"begin": line}},
                }
            )
    return json.dumps(issues, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
