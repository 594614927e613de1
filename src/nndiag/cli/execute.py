"""load -> diagnose -> render -> write -> exit. The one broad except of the command line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from nndiag.cli.files import write_atomically
from nndiag.cli.options import Shared
from nndiag.cli.progress import Progress
from nndiag.cli.streams import is_first_rank, reserved_stdout, say, write_all
from nndiag.core.errors import UsageError, did_you_mean
from nndiag.core.findings import Severity
from nndiag.core.report import Policy, Report, worst_exit
from nndiag.core.rules import RULES, Selection, known_prefix
from nndiag.core.subject import Run, Subject
from nndiag.render import FORMATS, Look, render

_collected: ContextVar[list[Report] | None] = ContextVar("collected", default=None)


@contextmanager
def collecting() -> Iterator[list[Report]]:
    """Let commands hand over their reports instead of printing them and exiting."""
    reports: list[Report] = []
    token = _collected.set(reports)
    try:
        yield reports
    finally:
        _collected.reset(token)


@dataclass(frozen=True, slots=True)
class Request:
    """What the shared options ask for, understood and checked before anything heavy is imported."""

    shared: Shared
    policy: Policy
    outputs: tuple[tuple[str, Path], ...]
    look: Look

    @classmethod
    def of(cls, shared: Shared) -> Request:
        """Check the shared options; raise UsageError with what could have been meant."""
        fail_on = _choice(shared.fail_on, [level.word for level in Severity] + ["never"], "--fail-on")
        policy = Policy(
            selection=Selection(tuple(_codes(shared.select)) or ("ALL",), tuple(_codes(shared.ignore))),
            severity=dict(_level(item) for item in shared.severity),
            fail_on=None if fail_on == "never" else Severity[fail_on.upper()],
            suppressions=shared.settings.suppressions,
            allow_empty=shared.allow_empty,
        )
        _choice(shared.format, FORMATS, "--format")
        _choice(shared.color, ("auto", "always", "never"), "--color")
        outputs = tuple(_output(item) for item in shared.output)
        return cls(shared, policy, outputs, Look.of_terminal(shared))

    def run(self, *, uses_torch: bool) -> Run:
        """Return how the examination runs, with the device resolved."""
        from nndiag.load.device import resolve_device

        shared = self.shared
        return Run(
            seed=shared.seed,
            device=resolve_device(shared.device, uses_torch=uses_torch),
            max_seconds=shared.max_seconds,
            train=shared.train,
            trust=shared.trust,
            selection=self.policy.selection,
        )


def execute(
    command: str, shared: Shared, build: Callable[[Run], Subject], *, uses_torch: bool = True, **settings: Any
) -> None:
    """Run one check and end the process with the contract's exit code."""
    request = Request.of(shared)

    def work() -> list[Report]:
        return [examine(command, request, build, uses_torch=uses_torch, **settings)]

    finish(request, work)


def examine(
    command: str, request: Request, build: Callable[[Run], Subject], *, uses_torch: bool, **settings: Any
) -> Report:
    """Load the subject and run one check over it."""
    from nndiag.checks import make
    from nndiag.core.check import diagnose
    from nndiag.load.suppress import with_comments

    if request.shared.trust:
        say("trust: pickled objects and code named by files may be executed")
    with Progress(command, enabled=not (request.shared.quiet or request.shared.no_progress)) as progress:
        check = make(command, **settings)
        subject = build(request.run(uses_torch=uses_torch))
        # the budget is for experiments: importing the user's file, and all that it imports, is none
        subject = replace(subject, run=replace(subject.run, started=time.monotonic()))
        report = diagnose(check, subject, request.policy, on_step=progress)
    return with_comments(report, request.policy)


def finish(request: Request, work: Callable[[], Sequence[Report]]) -> None:
    """Do the work with stdout reserved, write what came out, and exit."""
    collected = _collected.get()
    if collected is not None:  # `nndiag all` writes for everybody
        collected.extend(work())
        return
    with reserved_stdout() as real:
        reports = [_with_versions(report) for report in work()]
        if not is_first_rank():
            raise typer.Exit(worst_exit([report.exit_code for report in reports]))
        reports = _against_baseline(request, reports)
        for form, path in request.outputs:
            write_atomically(path, render(reports, form, replace(request.look, color=False)))
        write_all(real, render(reports, request.shared.format, request.look))
    if request.shared.format == "concise":  # one line a finding has no place for it
        say(*(f"{report.command}: nothing to judge: {report.empty}" for report in reports if report.empty))
    if request.shared.write_baseline:
        raise typer.Exit(0)
    raise typer.Exit(worst_exit([report.exit_code for report in reports]))


def _against_baseline(request: Request, reports: list[Report]) -> list[Report]:
    if not (request.shared.baseline or request.shared.write_baseline):
        return reports
    from nndiag.core.baseline import apply_baseline, baseline_text
    from nndiag.load.baseline import read_baseline

    if request.shared.baseline:
        known = read_baseline(request.shared.baseline)
        reports = [apply_baseline(report, known) for report in reports]
    if request.shared.write_baseline:
        write_atomically(request.shared.write_baseline, baseline_text(reports))
    return reports


def _with_versions(report: Report) -> Report:
    """Add the versions that this run really used."""
    import platform

    found = {"python": platform.python_version()}
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = str(torch.__version__)
    return replace(report, run=replace(report.run, versions={**found, **report.run.versions}))


def _codes(items: Sequence[str]) -> list[str]:
    return [known_prefix(part) for item in items for part in item.split(",") if part.strip()]


def _level(item: str) -> tuple[str, Severity]:
    code, equals, level = item.partition("=")
    if not equals:
        raise UsageError(f"--severity {item} has no level", hint="for example --severity DRP105=warning")
    if code.upper() not in RULES:
        raise UsageError(
            f"unknown code '{code}'",
            hint=did_you_mean(code.upper(), RULES, otherwise="'nndiag rules' lists them"),
        )
    word = _choice(level, [severity.word for severity in Severity], "--severity")
    return code.upper(), Severity[word.upper()]


def _output(item: str) -> tuple[str, Path]:
    form, colon, path = item.partition(":")
    if not colon or not path:
        raise UsageError(f"--output {item} names no file", hint="for example -o json:report.json")
    return _choice(form, FORMATS, "--output"), Path(path)


def _choice(word: str, known: Sequence[str], option: str) -> str:
    if word.lower() not in known:
        hint = did_you_mean(word.lower(), known, otherwise=f"one of {', '.join(known)}")
        raise UsageError(f"{option} does not know '{word}'", hint=hint)
    return word.lower()
