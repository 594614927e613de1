"""JUnit XML, as build servers read it: one suite per check, one case per rule."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from nndiag.core.rules import RULES
from nndiag.render import phrases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.core.findings import Finding
    from nndiag.core.report import Report

# What XML 1.0 cannot hold, escaped or not (W3C XML 1.0, section 2.2).
UNSAFE = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(reports: Sequence[Report]) -> str:
    """Return a JUnit document.

    A rule with a finding at or above `fail_on` fails; one whose findings stay below it passes and holds them
    as its output; a skipped rule is skipped; a check that could not run is an error.
    """
    root = ET.Element("testsuites", name="nndiag")
    for report in reports:
        root.append(_suite(report))
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(report: Report) -> ET.Element:
    suite = ET.Element("testsuite", name=safe(f"nndiag.{report.command}"))
    properties = ET.SubElement(suite, "properties")
    for key, value in [("target", report.name), ("seed", report.run.seed), ("device", report.run.device)]:
        ET.SubElement(properties, "property", name=key, value=safe(value))
    if report.status == "failed":
        case = _case(report, "run")
        ET.SubElement(case, "error", message=safe(report.error), type="NndiagError").text = safe(report.error)
        suite.append(case)
    by_code: dict[str, list[Finding]] = {}
    for item in report.findings:
        by_code.setdefault(item.rule.code, []).append(item)
    for code in sorted({*report.checked, *by_code}):
        suite.append(_judged(report, code, by_code.get(code, [])))
    for skip in report.skipped:
        reason = f"{skip.reason} ({skip.where})" if skip.where else skip.reason
        case = _case(report, _title(skip.code, skip.where))
        ET.SubElement(case, "skipped", message=safe(reason))
        suite.append(case)
    for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(key, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite.findall("testcase"))))
    return suite


def _judged(report: Report, code: str, findings: list[Finding]) -> ET.Element:
    """Return the case of one rule that was applied, with all its findings."""
    case = _case(report, _title(code))
    active = [item for item in findings if not item.suppressed]
    failing = [item for item in active if report.fail_on is not None and item.severity >= report.fail_on]
    if failing:
        place = failing[0].where
        if place.file:
            case.set("file", safe(place.file))
            if place.line:
                case.set("line", str(place.line))
        # One failure per case: several are beyond what most readers count.
        failure = ET.SubElement(case, "failure", message=safe(failing[0].message), type=failing[0].severity.word)
        failure.text = safe("\n\n".join(map(_words, failing)))
    quiet = [item for item in findings if item not in failing]
    if quiet:
        ET.SubElement(case, "system-out").text = safe("\n\n".join(map(_words, quiet)))
    return case


def _case(report: Report, name: str) -> ET.Element:
    return ET.Element("testcase", classname=safe(f"nndiag.{report.command}"), name=safe(name), time="0")


def _title(code: str, where: str = "") -> str:
    rule = RULES.get(code)
    return " ".join(part for part in (code, rule.name if rule else "", where) if part)


def _words(item: Finding) -> str:
    head = f"{item.rule.code} {item.severity.word} [{item.rule.basis}] {item.message}"
    if item.suppressed:
        head += f" (accepted: {item.suppressed})"
    lines = [
        ("where", phrases.place(item.where)),
        ("evidence", phrases.proof(item)),
        ("means", item.means),
        ("fix", item.fix),
    ]
    return "\n".join([head, *(f"{label:>8} {text}" for label, text in lines if text)])


def safe(value: object) -> str:
    r"""Return text that XML 1.0 can hold; what it cannot is spelled out.

    Example:
        >>> safe("a" + chr(27) + "b")
        'a\\x1bb'
    """
    return UNSAFE.sub(lambda match: match.group().encode("unicode_escape", "backslashreplace").decode(), str(value))
