"""JSON, and JSON lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nndiag.core.serial import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.core.report import Report


def render(reports: Sequence[Report]) -> str:
    """Return one document: the report itself, or `{"runs": […]}` where there are several."""
    documents = [report.to_dict() for report in reports]
    whole = documents[0] if len(documents) == 1 else {"schema_version": SCHEMA_VERSION, "runs": documents}
    return json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def render_lines(reports: Sequence[Report]) -> str:
    """Return a line per finding, each naming its command; a run without findings has none."""
    lines = []
    for report in reports:
        document = report.to_dict()
        head = {"schema_version": SCHEMA_VERSION, "command": report.command, "name": report.name}
        lines += [
            json.dumps({**head, **finding}, ensure_ascii=False, allow_nan=False) for finding in document["findings"]
        ]
    return "".join(f"{line}\n" for line in lines)
