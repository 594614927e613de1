"""nndiag all: every check that the configuration or the inputs allow, in one report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, TypeAlias

import typer

from nndiag.cli.execute import Request, finish
from nndiag.cli.options import Shared, Trained
from nndiag.cli.several import reports_of
from nndiag.core.errors import UsageError
from nndiag.core.report import Report
from nndiag.core.rules import CHECKS

REPORTING = {"format", "output", "baseline", "write_baseline", "quiet", "verbose", "color", "width", "no_progress"}


def everything(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="file.py:attr and the like.")] = None,
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="Real batches.")] = None,
    serve: Annotated[str | None, typer.Option(metavar="DATA", help="What the model is fed in production.")] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="LABELS", help="Labels, for the entropy floor.")
    ] = None,
    *,
    shared: Shared,
    trained: Trained,
) -> None:
    """Run every check that the configuration or the inputs allow; one report, worst exit code.

    A check that does not apply says so and does not count; exit 4 means that none of them applied.

    Example: nndiag all models.py:build data.py:loader -o html:report.html
    """
    request = Request.of(shared)
    passed = _given_options(ctx, (shared, trained))
    calls = _calls(ctx, model, data, serve, labels)
    if not any(arguments for arguments, _reason in calls.values()):
        raise UsageError("nothing to examine", hint="give a MODEL, DATA or an nndiag.toml; 'nndiag init' writes one")
    finish(request, lambda: _run(ctx, request, calls, passed))


Calls: TypeAlias = Mapping[str, tuple[list[str] | None, str]]


def _calls(
    ctx: typer.Context, model: str | None, data: str | None, serve: str | None, labels: str | None
) -> dict[str, tuple[list[str] | None, str]]:
    """Say for each check which arguments it gets, or why it is left out."""
    tables = _document(ctx)
    both = [part for part in (model, data) if part]
    no_model = (None, "no MODEL is given")
    served = [*both, "--serve", serve] if serve else both
    floor = tables.get("entropy-floor", {})
    if labels or "labels" in floor:
        entropy: tuple[list[str] | None, str] = ([labels] if labels else [], "")
    elif model and data:
        entropy = (["--model", model, "--data", data], "")
    else:
        entropy = (None, "no LABELS are given, nor MODEL and DATA")
    embedding = tables.get("embedding-cost", {})
    scaled = tables.get("multigpu-lr", {})
    return {
        "check-dropout": (both, "") if model else no_model,
        "check-normalization": (served, "") if data else (None, "no DATA is given"),
        "entropy-floor": entropy,
        "embedding-cost": (both, "") if model or "vocab" in embedding else (None, "no MODEL, no vocabulary is given"),
        "init-symmetry": (both, "") if model else no_model,
        "multigpu-lr": ([], "") if scaled else (None, "no [multigpu-lr] table is configured"),
    }


def _document(ctx: typer.Context) -> Mapping[str, Any]:
    """Return the configuration's tables, as they stand in the file."""
    settings = ctx.params.get("config")
    path = getattr(settings, "path", "")
    if not path:
        return {}
    from nndiag.load.config import read_toml

    return read_toml(path)


def _given_options(ctx: typer.Context, groups: tuple[Any, ...]) -> list[str]:
    """Return the options typed on the command line, to be passed on; the file's reach each check by itself."""
    passed: list[str] = []
    for group in groups:
        for item in fields(group):
            source = ctx.get_parameter_source(item.name)
            if item.name in REPORTING or source is None or source.name != "COMMANDLINE":
                continue
            passed += _as_option(item.name, getattr(group, item.name))
    return passed


def _as_option(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if name == "config":
        return [flag, value.path]
    if isinstance(value, bool):
        return [flag if value else f"--no-{name}"]
    if isinstance(value, list):
        return [part for item in value for part in (flag, item)]
    return [flag, str(value)]


def _run(ctx: typer.Context, request: Request, calls: Calls, passed: list[str]) -> list[Report]:
    group: Any = ctx.find_root().command
    reports = []
    for name, (arguments, reason) in calls.items():
        if not any(request.policy.selection.touches(prefix) for prefix, check in CHECKS.items() if check == name):
            continue
        if arguments is None:
            reports.append(Report(name, "completed", empty=reason, fail_on=request.policy.fail_on, allow_empty=True))
            continue
        reports += reports_of(group, [name, *arguments, *passed], request)
    return _excused(reports)


def _excused(reports: list[Report]) -> list[Report]:
    """A check that had nothing to judge is no failure as long as another one had: `all` runs what applies."""
    if all(report.empty for report in reports):
        return reports
    return [replace(report, allow_empty=True) if report.empty else report for report in reports]
