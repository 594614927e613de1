"""Yesterday's findings: what was known stays quiet, what is new or has become worse speaks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from nndiag.core.errors import UsageError
from nndiag.core.findings import Basis, Severity
from nndiag.core.rules import RULES
from nndiag.core.serial import number, plain

if TYPE_CHECKING:
    from nndiag.core.findings import Finding
    from nndiag.core.report import Report

VERSION = "1.0"
KIND = "nndiag-baseline"
EQUAL = 1e-4  # relative: values are stored at six digits


@dataclass(frozen=True, slots=True)
class Known:
    """One finding as it stood when the baseline was written."""

    fingerprint: str
    severity: Severity
    value: float | None = None
    interval: tuple[float, float] | None = None

    def covers(self, finding: Finding) -> bool:
        """Whether this finding is no news: no graver than it was, and where it was measured, no worse."""
        if finding.fingerprint != self.fingerprint or finding.severity > self.severity:
            return False
        if finding.rule.basis is not Basis.MEASURED:
            return True
        return _no_worse(finding, self)


Baseline: TypeAlias = Mapping[str, Sequence[Known]]  # fingerprint -> entries


def _no_worse(finding: Finding, known: Known) -> bool:
    """Compare by value: equal within the intervals, or nearer to the healthy side of the threshold."""
    now, before, limit = finding.evidence.value, known.value, finding.evidence.threshold
    if now is None or before is None or math.isnan(now) or math.isnan(before):
        return str(now) == str(before)
    if math.isclose(now, before, rel_tol=EQUAL) or _inside(now, known.interval):
        return True
    if _inside(before, finding.evidence.interval):
        return True
    if limit is not None and not math.isnan(limit):
        return now < before if now > limit else now > before
    if finding.evidence.unit == "ratio" and now > 0 and before > 0:  # healthy is 1, on either side
        return abs(math.log(now)) < abs(math.log(before))
    return abs(now) < abs(before)


def _inside(value: float, interval: tuple[float, float] | None) -> bool:
    return interval is not None and interval[0] <= value <= interval[1]


def apply_baseline(report: Report, known: Baseline) -> Report:
    """Return the report with every finding that is no news marked as suppressed."""
    findings = []
    for item in report.findings:
        entries = known.get(item.fingerprint, ())
        covered = not item.suppressed and any(entry.covers(item) for entry in entries)
        findings.append(replace(item, suppressed="in the baseline") if covered else item)
    return replace(report, findings=tuple(findings))


def baseline_text(reports: Sequence[Report]) -> str:
    """Return the findings of these reports as the baseline of later runs: sorted JSON that diffs by line."""
    entries = [
        {
            "fingerprint": item.fingerprint,
            "code": item.rule.code,
            "severity": item.severity.word,
            "where": item.where.module or item.where.file or "",
            "value": item.evidence.value,
            "interval": item.evidence.interval,
            "message": item.message,
        }
        for report in reports
        for item in report.findings
    ]
    entries.sort(key=lambda entry: (str(entry["code"]), str(entry["where"]), str(entry["fingerprint"])))
    document = {"kind": KIND, "version": VERSION, "findings": entries}
    return json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse_baseline(document: object, name: str) -> Baseline:
    """Read what `baseline_text` wrote.

    Raises:
        UsageError: The document is no baseline, of another version, or damaged.
    """
    again = "write it anew with --write-baseline"
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise UsageError(f"'{name}' is no baseline of nndiag", hint=again)
    if str(document.get("version", "")).split(".", maxsplit=1)[0] != VERSION.split(".", maxsplit=1)[0]:
        said = document.get("version", "none")
        raise UsageError(f"'{name}' is a baseline of version {said}, this nndiag reads {VERSION}", hint=again)
    known: dict[str, list[Known]] = {}
    try:
        for entry in document["findings"]:
            if entry["code"] in RULES:  # a code of a later nndiag concerns nobody here
                item = _entry(entry)
                known.setdefault(item.fingerprint, []).append(item)
    except (KeyError, TypeError, ValueError, AttributeError) as broken:
        raise UsageError(f"the baseline '{name}' is damaged: {broken!r}", hint=again) from broken
    return known


def _entry(entry: Mapping[str, object]) -> Known:
    value, interval = number(entry.get("value")), entry.get("interval")
    pair = None
    if isinstance(interval, list):
        low, high = (float(number(edge)) for edge in interval)
        pair = (low, high)
    return Known(
        fingerprint=str(entry["fingerprint"]),
        severity=Severity[str(entry["severity"]).upper()],
        value=None if value is None else float(value),
        interval=pair,
    )
