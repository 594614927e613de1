"""nndiag report RUN.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nndiag.cli.execute import Request
from nndiag.cli.files import write_atomically
from nndiag.cli.options import Shared
from nndiag.cli.streams import reserved_stdout, write_all


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN.json...", help="What -f json has written.")],
    *,
    shared: Shared,
) -> None:
    """Convert stored runs to any other format, several of them into one report. Nothing is run again.

    Example: nndiag report run.json -f html > report.html
    """
    from nndiag.load.report import load_reports
    from nndiag.render import render

    request = Request.of(shared)
    reports = load_reports(runs)
    for form, path in request.outputs:
        write_atomically(path, render(reports, form))
    with reserved_stdout() as real:
        write_all(real, render(reports, shared.format, request.look))
