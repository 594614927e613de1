"""A report: what was examined, what was seen, and how that ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Self

from nndiag.core.findings import Finding, Measurement, Scalar, Series, Severity, Skip, Table
from nndiag.core.rules import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping

EXIT_OK, EXIT_FINDINGS, EXIT_USAGE, EXIT_TARGET, EXIT_NOTHING = 0, 1, 2, 3, 4
WORST_FIRST = (EXIT_TARGET, EXIT_FINDINGS, EXIT_NOTHING, EXIT_OK)


class DiagnosisError(Exception):
    """Raised by `Report.raise_for_findings`; carries the report."""

    def __init__(self, report: Report, findings: Sequence[Finding]) -> None:
        """Say each finding in a line."""
        lines = [f"{item.rule.code} {item.severity.word}: {item.message}" for item in findings]
        super().__init__("\n".join([f"{report.command} {report.name}: {len(lines)} finding(s)", *lines]))
        self.report = report
        self.findings = tuple(findings)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Where and how the run took place. Wall time is the one thing that differs between equal runs."""

    seed: int = 0
    device: str = "cpu"
    total_s: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Suppression:
    """One accepted finding: code prefix, place pattern, reason."""

    code: str
    where: str = "*"
    reason: str = ""

    def covers(self, finding: Finding) -> bool:
        """Whether this entry speaks of that finding (module or file matches the pattern)."""
        if not finding.rule.code.startswith(self.code):
            return False
        place = finding.where
        names = [place.module or "", place.file or "", f"{place.file}:{place.line}"]
        return any(fnmatchcase(name, self.where) for name in names)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user wants to hear, and how loudly."""

    selection: Selection = field(default_factory=Selection)
    severity: Mapping[str, Severity] = field(default_factory=dict)  # code -> level
    fail_on: Severity | None = Severity.ERROR
    suppressions: tuple[Suppression, ...] = ()
    allow_empty: bool = False

    def apply(self, findings: Sequence[Finding]) -> tuple[Finding, ...]:
        """Select, re-level, suppress and order (worst first, then as found)."""
        kept = []
        for found in findings:
            if not self.selection.has(found.rule.code):
                continue
            level = self.severity.get(found.rule.code, found.severity)
            accepted = next((entry for entry in self.suppressions if entry.covers(found)), None)
            reason = (accepted.reason or "accepted in the configuration") if accepted else found.suppressed
            kept.append(replace(found, severity=level, suppressed=reason))
        return tuple(sorted(kept, key=lambda item: -item.severity))


@dataclass(frozen=True, slots=True)
class Report:
    """One check's result. `exit_code` follows from it."""

    command: str
    status: str  # completed | truncated | failed
    name: str = ""
    target: Mapping[str, Scalar] = field(default_factory=dict)
    context: tuple[str, ...] = ()
    run: RunInfo = field(default_factory=RunInfo)
    settings: Mapping[str, Any] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    series: tuple[Series, ...] = ()
    tables: tuple[Table, ...] = ()
    checked: tuple[str, ...] = ()
    skipped: tuple[Skip, ...] = ()
    fail_on: Severity | None = Severity.ERROR
    empty: str = ""  # why nothing could be judged
    allow_empty: bool = False
    error: str = ""  # with status "failed"

    @property
    def active(self) -> tuple[Finding, ...]:
        """The findings that nobody has accepted."""
        return tuple(item for item in self.findings if not item.suppressed)

    def count(self, severity: Severity) -> int:
        """How many unsuppressed findings of exactly this severity."""
        return sum(item.severity is severity for item in self.active)

    @property
    def exit_code(self) -> int:
        """0 clean, 1 findings at or above `fail_on`, 3 failed, 4 nothing applicable."""
        if self.status == "failed":
            return EXIT_TARGET
        if self.fail_on is not None and any(item.severity >= self.fail_on for item in self.active):
            return EXIT_FINDINGS
        if self.empty and not self.allow_empty:
            return EXIT_NOTHING
        return EXIT_OK

    def raise_for_findings(self, severity: str = "error") -> Self:
        """Raise `DiagnosisError` when a finding is at or above `severity`; otherwise return the report."""
        level = Severity[severity.upper()]
        bad = [item for item in self.active if item.severity >= level]
        if bad:
            raise DiagnosisError(self, bad)
        return self

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of this report (contract: schema_version "1.0")."""
        from nndiag.core.serial import to_dict

        return to_dict(self)


def worst_exit(codes: Sequence[int]) -> int:
    """Join the exit codes of several runs: the worst of 3 > 1 > 4 > 0."""
    return next((code for code in WORST_FIRST if code in codes), EXIT_OK)
