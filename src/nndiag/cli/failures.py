"""What went wrong, in two lines and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from nndiag.cli.streams import say_error
from nndiag.core.errors import NndiagError


def explain(error: BaseException, *, debug: bool) -> int:
    """Print an error as two lines and return the exit code it stands for."""
    if debug:
        traceback.print_exception(error)
    message, hint = as_two_lines(error)
    say_error(message, hint)
    return error.exit_code if isinstance(error, NndiagError) else NndiagError.exit_code


def as_two_lines(error: BaseException) -> tuple[str, str]:
    """Return message and hint; of a foreign exception the message names the user's line."""
    if isinstance(error, NndiagError):
        return error.message, error.hint
    place = _last_foreign_line(error)
    return f"{type(error).__name__}: {error}{f' ({place})' if place else ''}", "--debug shows the full traceback"


def _last_foreign_line(error: BaseException) -> str:
    """Return file:line of the innermost frame that is the user's, else of the innermost one."""
    frames = traceback.extract_tb(error.__traceback__)
    own = str(Path(__file__).resolve().parent.parent)
    users = [frame for frame in frames if not frame.filename.startswith((own, sys.prefix, sys.base_prefix, "<"))]
    chosen = users[-1] if users else (frames[-1] if frames else None)
    return f"{os.path.relpath(chosen.filename)}:{chosen.lineno}" if chosen else ""
