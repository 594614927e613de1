"""Does dropout's 1/(1-p) survive the layers that follow it, and is it on exactly when it should be?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nndiag.checks.dropout.bias import judge_bias
from nndiag.checks.dropout.case import Case, investigate
from nndiag.checks.dropout.downstream import judge_attention, judge_norms, report_loss
from nndiag.checks.dropout.fit import judge_fit
from nndiag.checks.dropout.mode import judge_modes
from nndiag.checks.dropout.overview import answer, facts, figures, table
from nndiag.checks.dropout.placed import judge_places
from nndiag.checks.dropout.scale import judge_scale
from nndiag.checks.dropout.surroundings import surroundings
from nndiag.checks.dropout.whatif import what_if
from nndiag.core.findings import Evidence, Finding, Measurement
from nndiag.core.rules import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nndiag.core.findings import Observation
    from nndiag.core.subject import Subject


@dataclass(frozen=True)
class CheckDropout:
    """Finds every dropout that runs, and compares training with eval around each."""

    masks: int = 16  # masks drawn per measurement; up to four times as many where the scale is hand-written
    max_variance_ratio: float = 1.5  # training over eval variance that batch norm may see

    name: ClassVar[str] = "check-dropout"

    def examine(self, subject: Subject) -> Iterator[Observation]:
        """Look, measure, judge."""
        case: Case | None = None
        for item in investigate(subject, self.masks):
            if isinstance(item, Case):
                case = item
            else:
                yield item
        assert case is not None
        yield from facts(case)
        findings: list[Finding] = []
        ratios: dict[str, float] = {}
        for item in self._judged(case):
            if isinstance(item, Finding):
                findings.append(item)
            if isinstance(item, Measurement) and item.name == "variance_ratio":
                ratios[item.where] = item.value
            yield item
        yield answer(case, findings, ratios)
        yield table(case, findings, ratios)
        yield from figures(case, ratios, self.max_variance_ratio)
        yield from surroundings(case)
        yield from what_if(case)
        if case.cut:
            yield found(
                "NND902",
                f"the budget of {subject.run.max_seconds:g} s ended before {case.cut}",
                evidence=Evidence(value=subject.run.max_seconds, unit="seconds"),
                means="what was not measured is listed as skipped",
                fix=f"raise --max-seconds: the check takes about {case.forwards} forwards of this model; "
                "fewer --masks or a smaller batch take less",
            )

    def _judged(self, case: Case) -> Iterator[Observation]:
        yield from judge_modes(case)
        yield from judge_places(case)
        yield from judge_scale(case)
        yield from judge_norms(case, self.max_variance_ratio)
        yield from judge_bias(case)
        yield from judge_attention(case)
        yield from report_loss(case)
        yield from judge_fit(case)
