"""nndiag rules, nndiag rule CODE."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from nndiag.cli.streams import put
from nndiag.core.errors import UsageError, did_you_mean
from nndiag.core.rules import RULES, known_prefix


def rules(
    prefixes: Annotated[list[str] | None, typer.Argument(metavar="[PREFIX]...", help="Such as DRP or NRM1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON list.")] = False,
) -> None:
    """List every code: level, basis, name and what it means.

    Example: nndiag rules DRP
    """
    wanted = tuple(known_prefix(prefix) for prefix in prefixes or ["ALL"])
    chosen = [rule for rule in RULES.values() if "ALL" in wanted or rule.code.startswith(wanted)]
    if as_json:
        import json

        rows = [
            {
                "code": rule.code,
                "name": rule.name,
                "severity": rule.severity.word,
                "basis": str(rule.basis),
                "check": rule.check,
                "summary": rule.summary,
            }
            for rule in chosen
        ]
        put(json.dumps(rows, indent=2))
        return
    width = max(len(rule.name) for rule in chosen)
    lines = [
        f"{rule.code}  {rule.severity.word:<7}  {rule.basis!s:<9}  {rule.name:<{width}}  {rule.summary}"
        for rule in chosen
    ]
    if sys.stdout.isatty() and max(map(len, lines)) > shutil.get_terminal_size().columns:  # the rest is for a pipe
        lines = [f"{rule.code}  {rule.severity.word:<7}  {rule.summary}" for rule in chosen]
    put("\n".join(lines))


def rule(code: Annotated[str, typer.Argument(metavar="CODE", help="Such as DRP105.")]) -> None:
    """Show one code's page: what it is, why it hurts, how it is measured, examples, the fix.

    Example: nndiag rule DRP105
    """
    from importlib.resources import files

    wanted = code.strip().upper()
    if wanted not in RULES:
        hint = did_you_mean(wanted, RULES, otherwise="'nndiag rules' lists every code")
        raise UsageError(f"unknown code '{code}'", hint=hint)
    put(files("nndiag.pages").joinpath(f"{wanted}.md").read_text(encoding="utf-8").rstrip())
