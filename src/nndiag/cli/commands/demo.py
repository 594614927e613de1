"""nndiag demo."""

from __future__ import annotations

import typer

from nndiag.cli.execute import Request, finish
from nndiag.cli.options import Shared


def demo(ctx: typer.Context, *, shared: Shared) -> None:
    """Show all six commands on bundled data and small models with planted faults; no download.

    Example: nndiag demo -o html:demo.html
    """
    from nndiag.cli.showcase import run_showcase

    request = Request.of(shared)
    source = ctx.get_parameter_source("fail_on")
    asked = source is not None and source.name == "COMMANDLINE"
    fail_on = shared.fail_on if asked else "never"  # the faults are planted: to find them is success
    finish(request, lambda: run_showcase(ctx.find_root().command, request, fail_on))
