"""How numbers, places and verdicts read, the same in every format."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from nndiag.core.findings import Severity
from nndiag.render import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.core.findings import Finding, Where
    from nndiag.core.report import Report

CONFIG = "nndiag.toml"  # what findings without a source line point at
MARKS = {"error": "✗", "warning": "!", "note": "i", "ok": "✓", "skipped": "–"}


def clean(text: object) -> str:
    r"""Return outside text on one line, control and direction-changing characters spelled out.

    Example:
        >>> clean("a\x1b[31m\nb")
        'a\\x1b[31m b'
    """
    return "".join(_spell(character) for character in " ".join(str(text).split("\n")))


def _spell(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return " " if character == "\t" else character.encode("unicode_escape").decode()
    return character


def number(value: object) -> str:
    """Return a cell or a number as people write it; what is absent is a dash.

    Example:
        >>> number(19722), number(6.9), number(7.168e9), number(float("nan")), number(None)
        ('19,722', '6.9', '7.168e+09', 'nan', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return words.number(value)
    return clean(words.cell(value) if isinstance(value, bool) else value)


def quantity(value: object, unit: str) -> str:
    """Return a number with its unit: ratios as 6.9x, bytes as 7.17 GB; units that say nothing stay away."""
    if unit in ("B", "bytes") and isinstance(value, (int, float)) and math.isfinite(value) and value >= 1000:
        power = min(int(math.log10(value) // 3), 4)
        return f"{value / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
    text = number(value)
    if unit in ("", "1"):
        return text
    return f"{text}x" if unit == "ratio" else f"{text} {clean(unit)}"


def place(where: Where) -> str:
    """Return file:line and the module path, as far as they are known."""
    source = clean(where.file) if where.file else ""
    if where.file and where.line:
        source += f":{where.line}"
    module = f'{words.word_of(where)}"{clean(where.module)}"' if where.module else ""
    if where.cls:
        module = f"{module} ({short_class(where.cls)})" if module else short_class(where.cls)
    if where.next:
        module += f' → "{clean(where.next)}"'
    return " · ".join(part for part in (source, module) if part)


def short_class(name: str) -> str:
    """Return the class without its package: torch.nn.Dropout is Dropout."""
    return clean(name.rsplit(".", 1)[-1])


def proof(finding: Finding) -> str:
    """Return the evidence in one line: value, detail, interval, threshold, sample sizes, seed."""
    evidence = finding.evidence
    parts = []
    if evidence.value is not None:
        parts.append(quantity(evidence.value, evidence.unit))
    if evidence.detail:
        parts.append(clean(evidence.detail))
    if evidence.interval:
        low, high = (number(edge) for edge in evidence.interval)
        level = "" if "interval" in evidence.detail else "95 % "
        parts.append(f"{level}interval {low} to {high}")
    if evidence.threshold is not None:
        parts.append(f"threshold {limit(finding)}")
    parts += [f"{number(count)} {clean(what)}" for what, count in evidence.n.items()]
    if evidence.seed is not None:
        parts.append(f"seed {evidence.seed}")
    return " · ".join(parts)


def limit(finding: Finding) -> str:
    """Return the threshold, with a unit where it would not be read otherwise."""
    evidence = finding.evidence
    unit = evidence.unit if evidence.unit in ("B", "bytes") else ""
    return quantity(evidence.threshold, unit)


def tally(reports: Sequence[Report]) -> str:
    """Return "1 error, 2 warnings", or what else ended the runs."""
    counts = [(level.word, sum(r.count(level) for r in reports)) for level in sorted(Severity, reverse=True)]
    said = [f"{count} {word}{'s' if count > 1 else ''}" for word, count in counts if count]
    broken = sum(report.status == "failed" for report in reports)
    if broken:
        said.insert(0, f"{broken} check{'s' if broken > 1 else ''} could not run")
    if said:
        return ", ".join(said)
    return "nothing applicable" if all(r.empty for r in reports) else "nothing found"


def state(report: Report) -> str:
    """Return the word that colours a report: error, warning, note, ok or skipped."""
    if report.status == "failed":
        return "error"
    worst = max((item.severity for item in report.active), default=None)
    if worst is not None:
        return worst.word
    return "skipped" if report.empty else "ok"


def reasons(report: Report) -> list[tuple[str, str]]:
    """Return the skipped codes by reason, in order of first appearance: (codes, reason)."""
    groups: dict[str, list[str]] = {}
    for skip in report.skipped:
        reason = clean(skip.reason) + (f" ({clean(skip.where)})" if skip.where else "")
        groups.setdefault(reason, []).append(skip.code)
    return [(words.ranges(names), reason) for reason, names in groups.items()]


def uri(report: Report, where: Where) -> tuple[str, int, bool]:
    """Return a relative, percent-encoded path and a line for tools that insist on one.

    A finding without a source line, or in a file outside the working tree, points at the configuration file.
    The last item says whether the place is the real one.
    """
    config = str(report.target.get("config") or CONFIG)
    inside = relative(where.file) if where.file else ""
    if inside and where.line:
        return quote(inside), max(1, where.line), True
    if inside and inside == relative(config):
        return quote(inside), 1, True
    return quote(relative(config) or CONFIG), 1, False


def relative(path: str) -> str:
    """Return the path below the working directory with forward slashes, or nothing when it lies elsewhere."""
    try:
        path = os.path.relpath(path)
    except ValueError:  # another drive
        return ""
    pure = PureWindowsPath(path) if "\\" in path and os.sep == "\\" else PurePosixPath(path)
    return "" if pure.is_absolute() or ".." in pure.parts else pure.as_posix()


def short(text: str, most: int = 48) -> str:
    """Return text that fits, its middle left out: both ends of a module's name tell it apart.

    Example:
        >>> short("encoder.layers.11.dropout", 13)
        'encode…ropout'
    """
    text = clean(text)
    if len(text) <= most:
        return text
    keep = most - 1
    return f"{text[: keep - keep // 2]}…{text[len(text) - keep // 2 :]}"


def lines(text: str) -> str:
    """Return `clean` text that keeps its line breaks."""
    return "\n".join(clean(line) for line in text.splitlines())


def spaced(name: str) -> str:
    """Return a snake_case or kebab-case name as words; module names stay as they are.

    Example:
        >>> spaced("step_time_against_vocabulary"), spaced("blocks.0.fc_1")
        ('step time against vocabulary', 'blocks.0.fc_1')
    """
    return clean(re.sub("[_-]", " ", name) if re.fullmatch("[a-z]+([_-][a-z]+)+", name) else name)
