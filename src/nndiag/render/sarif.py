"""SARIF 2.1.0, as code-scanning services read it: one run, whatever the number of checks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from nndiag.core.findings import Severity
from nndiag.core.report import worst_exit
from nndiag.core.rules import RULES
from nndiag.core.serial import plain
from nndiag.render import phrases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.core.findings import Finding, Rule
    from nndiag.core.report import Report

LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}
RANKS = {"exact": 100.0, "measured": 90.0, "heuristic": 50.0}


def render(reports: Sequence[Report]) -> str:
    """Return one SARIF log. Services refuse several runs of one tool, so all checks share a run."""
    log = {"version": "2.1.0", "runs": [_run(reports)]}
    return json.dumps(plain(log), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _run(reports: Sequence[Report]) -> dict[str, Any]:
    from nndiag import __version__

    used = sorted({item.rule.code for report in reports for item in report.findings}, key=list(RULES).index)
    results = [_result(report, item, used.index(item.rule.code)) for report in reports for item in report.findings]
    return {
        "tool": {
            "driver": {
                "name": "nndiag",
                "version": __version__,
                "semanticVersion": __version__,
                "rules": [_rule(RULES[code]) for code in used],
            }
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [_invocation(reports)],
        "results": results,
    }


def _rule(rule: Rule) -> dict[str, Any]:
    sentence = rule.summary[:1].upper() + rule.summary[1:] + "."
    return {
        "id": rule.code,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": sentence},
        "fullDescription": {"text": f"{sentence} Asked by nndiag {rule.check}; rests on {rule.basis} evidence."},
        "help": {
            "text": f"{sentence} 'nndiag rule {rule.code}' explains it.",
            "markdown": f"{sentence} `nndiag rule {rule.code}` says why it hurts and how to fix it.",
        },
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
        "properties": {
            "tags": ["machine-learning", rule.check, str(rule.basis)],
            "precision": _precision(rule),
        },
    }


def _precision(rule: Rule) -> str:
    """How sure a service may be: arithmetic is very sure, a heuristic is not."""
    return {"exact": "very-high", "measured": "high", "heuristic": "medium"}[str(rule.basis)]


def _result(report: Report, item: Finding, index: int) -> dict[str, Any]:
    path, line, real = phrases.uri(report, item.where)
    parts = [item.message, item.means and f"Means: {item.means}", item.fix and f"Fix: {item.fix}"]
    where = phrases.place(item.where)
    if where and not real:
        parts.insert(1, f"Where: {where}")
    proof = item.evidence
    result: dict[str, Any] = {
        "ruleId": item.rule.code,
        "ruleIndex": index,
        "level": LEVELS[item.severity],
        "rank": RANKS[str(item.rule.basis)],
        "message": {"text": "\n".join(filter(None, parts))},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": path}, "region": {"startLine": line}},
                **_logical(item),
            }
        ],
        "partialFingerprints": {"nndiag/v1": item.fingerprint},
        "properties": {
            "command": report.command,
            "target": report.name,
            "basis": str(item.rule.basis),
            "evidence": {
                "value": proof.value,
                "interval": proof.interval,
                "threshold": proof.threshold,
                "unit": proof.unit,
                "n": dict(proof.n),
                "seed": proof.seed,
                "detail": proof.detail,
            },
        },
    }
    if item.suppressed:
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": item.suppressed}]
    return result


def _logical(item: Finding) -> dict[str, Any]:
    """Return the module path, which survives moves between files."""
    if not item.where.module:
        return {}
    name = item.where.module
    return {
        "logicalLocations": [{"name": name.rsplit(".", 1)[-1] or name, "fullyQualifiedName": name, "kind": "member"}]
    }


def _invocation(reports: Sequence[Report]) -> dict[str, Any]:
    """Return how the run ended, with every skipped rule: skipped is never passed."""
    notices = [_notice("error", report, "", report.error) for report in reports if report.status == "failed"]
    for report in reports:
        if report.empty:
            notices.append(_notice("warning", report, "", f"nothing applicable: {report.empty}"))
        for skip in report.skipped:
            reason = f"{skip.reason} ({skip.where})" if skip.where else skip.reason
            notices.append(_notice("note", report, skip.code, f"{skip.code} skipped: {reason}"))
    return {
        "executionSuccessful": all(report.status != "failed" for report in reports),
        "exitCode": worst_exit([report.exit_code for report in reports]),
        "toolExecutionNotifications": notices,
    }


def _notice(level: str, report: Report, code: str, text: str) -> dict[str, Any]:
    notice: dict[str, Any] = {"level": level, "message": {"text": f"{report.command}: {text}"}}
    if code:
        notice["descriptor"] = {"id": code}
    return notice
