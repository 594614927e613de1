"""The life of a check: it yields what it sees, and `diagnose` makes a report of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from nndiag.core.errors import NothingApplicableError
from nndiag.core.findings import Answer, Fact, Finding, Judged, Measurement, Series, Skip, Step, Table
from nndiag.core.report import Policy, Report, RunInfo
from nndiag.core.rules import RULES

if TYPE_CHECKING:
    from nndiag.core.findings import Observation
    from nndiag.core.subject import Subject

Progress: TypeAlias = Callable[[Step], None]


@runtime_checkable
class Check(Protocol):
    """One question. Implemented by frozen dataclasses whose fields are its thresholds and budgets."""

    name: ClassVar[str]

    def examine(self, subject: Subject) -> Iterator[Observation]:
        """Yield what is seen, in the order it is learned."""


def diagnose(
    check: Check,
    subject: Subject,
    policy: Policy | None = None,
    *,
    on_step: Progress = lambda _step: None,
) -> Report:
    """Run one check to its end and return the report.

    Args:
        check: The question, with its thresholds.
        subject: What is examined.
        policy: What the user wants to hear about; everything by default.
        on_step: Receives progress.

    Returns:
        A complete report. A rule of this check that the check neither judged nor skipped is listed as skipped.
    """
    policy = policy or Policy()
    begun = time.perf_counter()
    seen: dict[type, list[Any]] = {
        kind: [] for kind in (Finding, Measurement, Series, Table, Fact, Answer, Judged, Skip)
    }
    empty = ""
    try:
        for observation in check.examine(subject):
            if isinstance(observation, Step):
                on_step(observation)
            else:
                seen[type(observation)].append(observation)
    except NothingApplicableError as nothing:
        empty = f"{nothing.message}; {nothing.hint}" if nothing.hint else nothing.message
    checked, skipped = _coverage(check.name, seen, policy, empty)
    truncated = any(item.rule.code == "NND902" for item in seen[Finding])
    return Report(
        command=check.name,
        status="truncated" if truncated else "completed",
        name=subject.name,
        target={fact.key: fact.value for fact in seen[Fact]},
        context=tuple(fact.text for fact in seen[Fact] if fact.text),
        run=RunInfo(seed=subject.run.seed, device=subject.run.device, total_s=time.perf_counter() - begun),
        settings=_settings(check),
        answers=tuple(answer.text for answer in seen[Answer]),
        findings=policy.apply(seen[Finding]),
        measurements=tuple(seen[Measurement]),
        series=tuple(seen[Series]),
        tables=tuple(seen[Table]),
        checked=checked,
        skipped=skipped,
        fail_on=policy.fail_on,
        empty=empty or ("" if checked else "no rule could be judged"),
        allow_empty=policy.allow_empty,
    )


def _coverage(
    name: str, seen: dict[type, list[Any]], policy: Policy, empty: str
) -> tuple[tuple[str, ...], tuple[Skip, ...]]:
    """Sort this check's rules into judged and skipped; silence counts as skipped."""
    judged = {item.code for item in seen[Judged]} | {item.rule.code for item in seen[Finding]}
    own = [rule.code for rule in RULES.values() if rule.check == name]
    wanted = [code for code in own if policy.selection.has(code)]
    skips = [item for item in seen[Skip] if policy.selection.has(item.code)]
    spoken = {item.code for item in skips}
    silent = [Skip(code, empty or "its condition did not arise here") for code in wanted if code not in judged | spoken]
    checked = tuple(sorted(code for code in judged if policy.selection.has(code)))
    return checked, tuple(sorted(dict.fromkeys([*skips, *silent]), key=lambda skip: (skip.code, skip.where)))


def _settings(check: Any) -> dict[str, Any]:
    """Return the check's fields, as they stood."""
    return dataclasses.asdict(check)
