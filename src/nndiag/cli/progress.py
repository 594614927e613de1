"""Progress on stderr: only for a person, only when it takes a while."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from nndiag.core.findings import Step


class Progress:
    """A spinner with what is being measured; silent where stderr is no terminal."""

    def __init__(self, command: str, *, enabled: bool) -> None:
        """Prepare; nothing is drawn before the first step."""
        self._command = command
        self._enabled = enabled and sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        """Start."""
        return self

    def __call__(self, step: Step) -> None:
        """Show one step."""
        if not self._enabled:
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
            )
            from rich.progress import (
                Progress as RichProgress,
            )

            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TimeElapsedColumn(),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._command, total=None)
        done = None if step.fraction is None else step.fraction
        self._bar.update(self._task, description=step.label, completed=done or 0, total=None if done is None else 1.0)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Remove what was drawn."""
        if self._bar is not None:
            self._bar.stop()
