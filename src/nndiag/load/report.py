"""Opens stored runs: what `-f json` wrote, one report or `{"runs": […]}`."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.core.serial import from_dict
from nndiag.load.door import STDIN, inspect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nndiag.core.report import Report

MAX_BYTES = 64 * 2**20  # a report is far smaller; what is larger is something else
AGAIN = "write it anew with -f json"

# What each part of a document must be before it is used; absent parts are from_dict's business.
TEXT, LIST, TABLE, COUNT = (str,), (list,), (dict,), (int,)
FINDING: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("code", "severity", "message", "means", "fix", "suppressed_reason"), TEXT),
    "where": TABLE,
    "evidence": TABLE,
}
WHERE: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("file", "module", "class", "next"), TEXT),
    "line": COUNT,
}
EVIDENCE: Mapping[str, tuple[type, ...]] = {
    "value": (int, float, str),
    "threshold": (int, float, str),
    "interval": LIST,
    "unit": TEXT,
    "detail": TEXT,
    "n": TABLE,
    "seed": COUNT,
}
MEASUREMENT: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "unit", "where"), TEXT),
    "value": (int, float, str),
    "interval": LIST,
}
SERIES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "unit", "x_unit", "group", "kind"), TEXT),
    **dict.fromkeys(("x", "y", "labels"), LIST),
    "threshold": (int, float, str),
}
REPORT: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("command", "status", "name", "fail_on", "error"), TEXT),
    **dict.fromkeys(("target", "run", "settings", "coverage"), TABLE),
    **dict.fromkeys(("context", "answers", "findings", "measurements", "series", "tables"), LIST),
}


def load_reports(paths: Sequence[str | Path]) -> list[Report]:
    """Return every report of these files, in order.

    Raises:
        UsageError: A file does not exist.
        NndiagError: A file is no stored run, damaged, or of a newer major schema.
    """
    reports: list[Report] = []
    for path in paths:
        document = read_json(path)
        if not isinstance(document, dict) or not ("schema_version" in document or "runs" in document):
            raise NndiagError(f"'{path}' is no stored run of nndiag", hint=AGAIN)
        runs = document.get("runs", [document])
        if not isinstance(runs, list):
            raise NndiagError(f"'{path}' is damaged: 'runs' is no list", hint=AGAIN)
        try:
            reports += [_read(run, document) for run in runs]
        except NndiagError as broken:
            raise NndiagError(f"'{path}': {broken.message}", hint=broken.hint) from broken
    if not reports:
        raise NndiagError(f"'{paths[0]}' holds no run" if paths else "no stored run was named", hint=AGAIN)
    return reports


def read_json(path: str | Path) -> Any:
    """Return the JSON document of a file; size and depth are bounded.

    Raises:
        UsageError: The file does not exist.
        NndiagError: It is too large, or not JSON.
    """
    opened = inspect(str(path), empty_ok=True)
    if opened.size > MAX_BYTES:
        raise NndiagError(f"'{path}' is too large for a report ({opened.size} bytes)", hint=AGAIN)
    if opened.kind not in ("json", "text"):
        raise NndiagError(f"'{path}' is {opened.kind}, not JSON", hint=AGAIN)
    try:
        with nullcontext(sys.stdin.buffer) if opened.path == STDIN else Path(path).open("rb") as file:
            return json.loads(file.read(MAX_BYTES))
    except (ValueError, RecursionError) as broken:
        raise NndiagError(f"'{path}' is not JSON: {broken}", hint=AGAIN) from broken


def _read(run: object, whole: Mapping[str, Any]) -> Report:
    if not isinstance(run, dict):
        raise NndiagError("a stored run is no table", hint=AGAIN)
    report = from_dict({"schema_version": whole.get("schema_version", ""), **run})
    _look(run, REPORT, "the report")
    _look(run["coverage"], {"checked": LIST, "skipped": LIST}, "coverage")
    for item in run["findings"]:
        _look(item, FINDING, "a finding")
        _look(item["where"], WHERE, "where")
        _look(item["evidence"], EVIDENCE, "evidence")
    for key, shape in (("measurements", MEASUREMENT), ("series", SERIES)):
        for item in run[key]:
            _look(item, shape, key)
    for series in report.series:
        if not all(isinstance(value, (int, float)) for value in (*series.x, *series.y)):
            raise NndiagError(f"the stored run is damaged: series '{series.name}' holds no numbers", hint=AGAIN)
    return report


def _look(part: Mapping[str, Any], shape: Mapping[str, tuple[type, ...]], what: str) -> None:
    """Compare what is there with what it must be."""
    for key, kinds in shape.items():
        if part.get(key) is not None and not isinstance(part[key], kinds):
            said = type(part[key]).__name__
            raise NndiagError(f"the stored run is damaged: '{key}' of {what} is a {said}", hint=AGAIN)
