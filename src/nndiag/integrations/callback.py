"""What the callbacks of every trainer share: the settings, and telling all ranks what the first one decided."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nndiag.integrations.asking import BATCHES, alone, known_checks, level, stop_if_needed, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from nndiag.core.report import Report

BUDGET = 30.0  # seconds of experiments for each check, where nobody said


class Asking:
    """A callback that runs chosen checks once, when training starts.

    Args:
        checks: Names of commands; all that a trainer can show by default.
        fail_on: `error`, `warning`, `note`, or `never` to warn only.
        batches: How many batches of the training loader are looked at.
        **settings: What the functions of `nndiag` take; `base_lr` and `base_batch` for multigpu-lr.
    """

    def __init__(
        self, checks: Iterable[str] | None = None, *, fail_on: str = "error", batches: int = BATCHES, **settings: Any
    ) -> None:
        super().__init__()
        self.checks = known_checks(checks)
        self.fail_on = level(fail_on)
        self.batches = batches
        self.settings = {"max_seconds": BUDGET, **settings}
        self.reports: list[Report] = []

    def start(self, examine: Callable[[], list[Report]], *, first: bool, share: Callable[[bool], bool]) -> None:
        """Examine on the first rank, tell, and stop all ranks where the run must not start.

        Args:
            examine: Runs the checks.
            first: Whether this is the rank that speaks.
            share: Gives every rank what the first one was given, so that none waits for one that has stopped.
        """
        failure: BaseException | None = None
        try:
            with alone():
                self.reports = examine() if first else []
            if first:
                tell(self.reports)
                stop_if_needed(self.reports, self.fail_on)
        except Exception as found:  # noqa: BLE001 - told to the other ranks first, then raised
            failure = found
        stop = share(failure is not None)
        if failure is not None:
            raise failure
        if stop:
            raise RuntimeError("nndiag on rank 0 found a reason not to start; see its log")
