"""The records that a check yields and a report holds. All frozen, no behaviour to speak of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Scalar: TypeAlias = str | int | float | bool | None
NOTHING: Mapping[str, int] = MappingProxyType({})


class Severity(IntEnum):
    """How bad a finding is; ordered."""

    NOTE = 1
    WARNING = 2
    ERROR = 3

    @property
    def word(self) -> str:
        """The lower-case name used in every format."""
        return self.name.lower()


class Basis(StrEnum):
    """What a finding rests on."""

    EXACT = "exact"  # arithmetic or structure: no sampling error
    MEASURED = "measured"  # with n and an interval
    HEURISTIC = "heuristic"  # never an error by default


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table in `rules.py`."""

    code: str
    name: str
    severity: Severity
    basis: Basis
    check: str
    summary: str


@dataclass(frozen=True, slots=True)
class Where:
    """A place a user can go to: a source line, a module, the module behind it."""

    module: str | None = None  # dotted name inside the model, or a column, a table, a config key
    cls: str | None = None  # qualified class name
    next: str | None = None  # the module that consumes it
    file: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """The number behind a finding."""

    value: float | None = None
    unit: str = ""
    interval: tuple[float, float] | None = None  # 95 % unless `detail` says otherwise
    threshold: float | None = None
    n: Mapping[str, int] = field(default_factory=lambda: NOTHING)  # {"samples": 512, "masks": 16}
    seed: int | None = None
    detail: str = ""  # words: what was measured, over what


@dataclass(frozen=True, slots=True)
class Finding:
    """One sickness at one place, with its number, meaning and cure."""

    rule: Rule
    where: Where
    message: str
    evidence: Evidence
    means: str
    fix: str
    severity: Severity
    suppressed: str = ""  # the reason, when the user has accepted it

    @property
    def fingerprint(self) -> str:
        """A name that survives edits elsewhere: code and place, no line number, no value."""
        where = self.where
        parts = (self.rule.code, where.file, where.module, where.cls, where.next)
        return hashlib.sha256("\0".join(part or "" for part in parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number worth printing whether or not anything is wrong."""

    name: str  # snake_case: variance_ratio
    value: float
    unit: str
    where: str = ""
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """What a plot or a sparkline needs."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    unit: str
    x_unit: str = ""
    group: str = ""  # series of one group share a figure
    kind: str = "line"  # line | step | bar | histogram | heat
    threshold: float | None = None
    labels: Sequence[str] = ()  # names of the bars, where x is only an index


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for the eye. The first column names the thing, a column "status" is coloured."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Scalar]]
    main: bool = False  # printed in the terminal; the others only with -v and in the pages


@dataclass(frozen=True, slots=True)
class Fact:
    """One item of the context line and of the report's `target`."""

    key: str
    value: Scalar
    text: str  # "2 dropout sites"


@dataclass(frozen=True, slots=True)
class Answer:
    """The check's question answered in one sentence, with its number."""

    text: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A rule that was really applied here. What is neither judged nor skipped is reported as skipped."""

    code: str


@dataclass(frozen=True, slots=True)
class Skip:
    """What could not be judged, and why: never a pass."""

    code: str
    reason: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """Progress: goes to stderr, never into a report."""

    label: str
    fraction: float | None = None


Observation: TypeAlias = Finding | Measurement | Series | Table | Fact | Answer | Judged | Skip | Step
