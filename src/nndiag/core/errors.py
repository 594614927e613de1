"""What stops a run: what is wrong, and what to do about it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class NndiagError(Exception):
    """The target could not be loaded or run (exit 3).

    Printed as two lines, `error: …` and `hint: …`; it says nothing about the model's health.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep the message, and the hint that becomes the second line."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(NndiagError):
    """The command line or the configuration is wrong (exit 2)."""

    exit_code: ClassVar[int] = 2


class NothingApplicableError(NndiagError):
    """There is nothing to judge here: no dropout layer, empty data (exit 4)."""

    exit_code: ClassVar[int] = 4


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """Return a hint naming the closest known word, or `otherwise`.

    Example:
        >>> did_you_mean("make_mode", ["make_model", "train"])
        "did you mean 'make_model'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else otherwise
