"""Reports as JSON documents and back. Strict JSON: NaN and infinities are strings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.core.findings import Evidence, Finding, Measurement, Series, Severity, Skip, Table, Where
from nndiag.core.report import Report, RunInfo
from nndiag.core.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA_VERSION = "1.0"
DIGITS = 6  # significant digits of every number that leaves


def to_dict(report: Report) -> dict[str, Any]:
    """Return the document of one report."""
    from nndiag import __version__

    run = report.run
    timing = {"total_s": run.total_s}
    document: dict[str, Any] = plain(
        {
            "schema_version": SCHEMA_VERSION,
            "tool": {"name": "nndiag", "version": __version__},
            "command": report.command,
            "status": report.status,
            "exit_code": report.exit_code,
            "name": report.name,
            "target": dict(report.target),
            "context": list(report.context),
            "run": {"seed": run.seed, "device": run.device, **run.versions, "timing": timing},
            "settings": dict(report.settings),
            "fail_on": report.fail_on.word if report.fail_on else "never",
            "summary": {
                **{level.word: report.count(level) for level in sorted(Severity, reverse=True)},
                "suppressed": len(report.findings) - len(report.active),
            },
            "answers": list(report.answers),
            "coverage": {
                "checked": list(report.checked),
                "skipped": [_trim({"code": s.code, "reason": s.reason, "where": s.where}) for s in report.skipped],
                **_trim({"empty": report.empty, "allow_empty": report.allow_empty}),
            },
            "findings": [_finding(item) for item in report.findings],
            "measurements": [
                _trim(
                    {
                        "name": m.name,
                        "where": m.where,
                        "value": m.value,
                        "unit": m.unit,
                        "interval": m.interval,
                    }
                )
                for m in report.measurements
            ],
            "series": [_series(item) for item in report.series],
            "tables": [
                {
                    "title": t.title,
                    "columns": list(t.columns),
                    "rows": [list(r) for r in t.rows],
                    "main": t.main,
                }
                for t in report.tables
            ],
            **_trim({"error": report.error}),
        }
    )
    return document


def _finding(item: Finding) -> dict[str, Any]:
    place, proof = item.where, item.evidence
    return {
        "code": item.rule.code,
        "name": item.rule.name,
        "severity": item.severity.word,
        "basis": str(item.rule.basis),
        "message": item.message,
        "where": _trim(
            {
                "file": place.file,
                "line": place.line,
                "module": place.module,
                "class": place.cls,
                "next": place.next,
            }
        ),
        "evidence": _trim(
            {
                "value": proof.value,
                "interval": proof.interval,
                "threshold": proof.threshold,
                "unit": proof.unit,
                "n": dict(proof.n),
                "seed": proof.seed,
                "detail": proof.detail,
            }
        ),
        "means": item.means,
        "fix": item.fix,
        "fingerprint": item.fingerprint,
        "suppressed": bool(item.suppressed),
        **_trim({"suppressed_reason": item.suppressed}),
    }


def _series(item: Series) -> dict[str, Any]:
    return {
        "name": item.name,
        "unit": item.unit,
        "x": list(item.x),
        "y": list(item.y),
        **_trim(
            {
                "x_unit": item.x_unit,
                "group": item.group,
                "kind": item.kind,
                "threshold": item.threshold,
                "labels": list(item.labels),
            }
        ),
    }


def _trim(document: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what says nothing; zero and False-like numbers stay."""
    return {key: value for key, value in document.items() if value not in (None, "", [], {}, ()) and value is not False}


def plain(value: Any) -> Any:  # noqa: PLR0911 - one line per type
    """Return `value` in JSON's own types, floats at six significant digits, NaN and infinities as strings."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return plain(value.tolist())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    return str(value)


def number(value: Any) -> Any:
    """Undo what `plain` did to non-finite floats."""
    return float(value) if value in ("nan", "inf", "-inf") else value


def from_dict(document: Mapping[str, Any]) -> Report:
    """Rebuild a report from its document.

    Raises:
        NndiagError: The document is of a newer major schema, or is no report at all.
    """
    version = str(document.get("schema_version", ""))
    if version.split(".", maxsplit=1)[0] != SCHEMA_VERSION.split(".", maxsplit=1)[0]:
        said = f"schema {version}" if version else "no schema_version"
        raise NndiagError(f"the stored run has {said}, this nndiag reads {SCHEMA_VERSION}", hint="use a newer nndiag")
    try:
        return _report(document)
    except (KeyError, TypeError, ValueError, AttributeError) as broken:
        raise NndiagError(f"the stored run is damaged: {broken!r}", hint="write it anew with -f json") from broken


def _report(document: Mapping[str, Any]) -> Report:
    run, coverage = dict(document["run"]), document["coverage"]
    timing = run.pop("timing", {})
    fail_on = document.get("fail_on", "error")
    return Report(
        command=document["command"],
        status=document["status"],
        name=document.get("name", ""),
        target={key: number(value) for key, value in document["target"].items()},
        context=tuple(document.get("context", ())),
        run=RunInfo(run.pop("seed"), run.pop("device"), timing.get("total_s", 0.0), run),
        settings=document["settings"],
        answers=tuple(document.get("answers", ())),
        findings=tuple(_read_finding(item) for item in document["findings"]),
        measurements=tuple(
            Measurement(m["name"], number(m["value"]), m.get("unit", ""), m.get("where", ""), _pair(m.get("interval")))
            for m in document["measurements"]
        ),
        series=tuple(_read_series(item) for item in document["series"]),
        tables=tuple(
            Table(
                t["title"],
                tuple(t["columns"]),
                tuple(tuple(number(c) for c in row) for row in t["rows"]),
                t["main"],
            )
            for t in document.get("tables", ())
        ),
        checked=tuple(coverage["checked"]),
        skipped=tuple(Skip(s["code"], s["reason"], s.get("where", "")) for s in coverage["skipped"]),
        fail_on=None if fail_on == "never" else Severity[fail_on.upper()],
        empty=coverage.get("empty", ""),
        allow_empty=coverage.get("allow_empty", False),
        error=document.get("error", ""),
    )


def _read_finding(item: Mapping[str, Any]) -> Finding:
    place, proof = item["where"], item["evidence"]
    return Finding(
        rule=RULES[item["code"]],
        where=Where(place.get("module"), place.get("class"), place.get("next"), place.get("file"), place.get("line")),
        message=item["message"],
        evidence=Evidence(
            value=number(proof.get("value")),
            unit=proof.get("unit", ""),
            interval=_pair(proof.get("interval")),
            threshold=number(proof.get("threshold")),
            n=proof.get("n", {}),
            seed=proof.get("seed"),
            detail=proof.get("detail", ""),
        ),
        means=item["means"],
        fix=item["fix"],
        severity=Severity[item["severity"].upper()],
        suppressed=item.get("suppressed_reason", "") or ("suppressed" if item.get("suppressed") else ""),
    )


def _read_series(item: Mapping[str, Any]) -> Series:
    return Series(
        name=item["name"],
        x=tuple(number(value) for value in item["x"]),
        y=tuple(number(value) for value in item["y"]),
        unit=item["unit"],
        x_unit=item.get("x_unit", ""),
        group=item.get("group", ""),
        kind=item.get("kind", "line"),
        threshold=number(item.get("threshold")),
        labels=tuple(item.get("labels", ())),
    )


def _pair(value: Any) -> tuple[float, float] | None:
    return (number(value[0]), number(value[1])) if value else None
