"""Runs commands one after the other in this process and collects their reports."""

from __future__ import annotations

from typing import Any

from nndiag.cli.execute import Request, collecting
from nndiag.cli.failures import as_two_lines
from nndiag.core.errors import UsageError
from nndiag.core.report import Report


def reports_of(group: Any, arguments: list[str], request: Request) -> list[Report]:
    """Run one command; what goes wrong in it becomes a failed report, so that the others go on.

    Args:
        group: The command line's root command.
        arguments: The command and its arguments, as typed.
        request: What the outer command was asked for.

    Raises:
        UsageError: The arguments or the configuration are wrong: then nothing should go on.
    """
    with collecting() as reports:
        try:
            group.main(args=arguments, prog_name="nndiag", standalone_mode=False)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - a crash in one check does not stop the others
            message, hint = as_two_lines(error)
            text = f"{message}; {hint}" if hint else message
            return [Report(arguments[0], "failed", error=text, fail_on=request.policy.fail_on)]
    return reports
