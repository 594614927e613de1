"""Accepted findings: `# nndiag: ignore[CODE] reason` on the source line that a finding names."""

from __future__ import annotations

import io
import re
import tokenize
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nndiag.core.findings import Evidence, Severity, Where
from nndiag.core.report import Policy, Suppression
from nndiag.core.rules import CHECKS, found

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nndiag.core.findings import Finding
    from nndiag.core.report import Report

COMMENT = re.compile(r"#\s*nndiag:\s*ignore\[([A-Za-z0-9,\s]+)\][:\s]*(.*)")
MAX_BYTES = 4 * 2**20  # a source file of more than this is generated


@dataclass(frozen=True, slots=True)
class Accepted:
    """One comment: where it stands, what it accepts, and why."""

    file: str
    line: int
    code: str  # a code or a prefix of codes
    reason: str

    def covers(self, finding: Finding) -> bool:
        """Whether the finding names this very line, and one of these codes."""
        place = finding.where
        return place.file == self.file and place.line == self.line and finding.rule.code.startswith(self.code)


def with_comments(report: Report, policy: Policy | None = None) -> Report:
    """Return the report with the findings suppressed that the source itself accepts.

    A comment that accepts nothing, though its rule was judged, becomes a note (NND903): it would
    hide the next finding on its line unseen.
    """
    policy = policy or Policy(fail_on=report.fail_on)
    comments = [entry for file in _files(report) for entry in comments_in(file)]
    if not comments and not policy.suppressions:
        return report
    used: set[Accepted] = set()
    findings: list[Finding] = []
    for item in report.findings:
        entry = next((entry for entry in comments if entry.covers(item)), None)
        if entry is not None:
            used.add(entry)
            if not item.suppressed:
                findings.append(replace(item, suppressed=entry.reason or "accepted in the source"))
                continue
        findings.append(item)
    idle = [entry for entry in comments if entry not in used and _was_judged(entry.code, report)]
    forgotten = [
        entry
        for entry in policy.suppressions
        if _was_judged(entry.code, report) and not any(entry.covers(item) for item in report.findings)
    ]
    unused: list[Accepted | Suppression] = [*idle, *forgotten]
    extra = policy.apply([_unused(entry) for entry in unused])
    ordered = sorted([*findings, *extra], key=lambda item: -item.severity)
    return replace(report, findings=tuple(ordered))


def comments_in(file: str) -> list[Accepted]:
    """Return the accepting comments of a source file; a file that cannot be read has none."""
    path = Path(file)
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return []
        text = path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return []
    if "nndiag:" not in text:
        return []
    entries = []
    for line, comment in _comments(text):
        match = COMMENT.search(comment)
        if match:
            reason = match.group(2).strip()
            entries += [
                Accepted(file, line, code.strip().upper(), reason) for code in match.group(1).split(",") if code.strip()
            ]
    return entries


def _comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, comment); in what is no Python, every line that holds the mark."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        yield from ((index, line) for index, line in enumerate(text.splitlines(), 1) if COMMENT.search(line))
        return
    yield from ((token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT)


def _files(report: Report) -> list[str]:
    """Return the files in question: those that findings name, and the one the model came from."""
    names: Mapping[str, None] = dict.fromkeys(item.where.file for item in report.findings if item.where.file)
    target = str(report.target.get("model") or report.name)
    source = target.rpartition(":")[0]
    files = list(names)
    known = {Path(file).absolute() for file in files}
    if source.endswith(".py") and Path(source).absolute() not in known:
        files.append(source)
    return files


def _was_judged(accepted: str, report: Report) -> bool:
    """Whether this report could have used the entry: silence about a skipped rule proves nothing."""
    own = CHECKS.get(accepted[:3]) == report.command
    skipped = {skip.code for skip in report.skipped}
    judged = any(code.startswith(accepted) for code in report.checked)
    return own and judged and not any(code.startswith(accepted) for code in skipped)


def _unused(entry: Accepted | Suppression) -> Finding:
    comment = isinstance(entry, Accepted)
    place = Where(file=entry.file, line=entry.line) if isinstance(entry, Accepted) else Where(module=entry.where)
    said = "the comment accepts" if comment else "[[ignore]] accepts"
    return found(
        "NND903",
        f"{said} {entry.code}, which is not found {'on its line' if comment else 'there'}",
        where=place,
        evidence=Evidence(value=0, unit="findings"),
        means="a suppression that suppresses nothing hides the next finding there",
        fix=f"delete the {'comment' if comment else 'entry'}",
        severity=Severity.NOTE,
    )
