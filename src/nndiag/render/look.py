"""How a terminal report looks: width, colour, encoding, how much."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from typing import Any, Self

PIPED_WIDTH = 100
NARROW, WIDE = 40, 160


@dataclass(frozen=True, slots=True)
class Look:
    """What a text renderer needs to know of its reader."""

    width: int = PIPED_WIDTH
    color: bool = False
    utf8: bool = True
    quiet: bool = False
    verbose: int = 0
    show_suppressed: bool = False

    @classmethod
    def of_terminal(cls, shared: Any) -> Self:
        """Read NO_COLOR, FORCE_COLOR, COLUMNS and the terminal, below the options that were given.

        Args:
            shared: Has `width`, `color`, `quiet`, `verbose` and `show_suppressed`.
        """
        out = sys.__stdout__
        terminal = bool(out and not out.closed and out.isatty())
        environ = os.environ
        if shared.color != "auto":
            color = shared.color == "always"
        elif environ.get("NO_COLOR"):
            color = False
        elif environ.get("FORCE_COLOR", "0") not in ("", "0"):
            color = True
        else:
            color = terminal and environ.get("TERM") != "dumb"
        columns = environ.get("COLUMNS", "")
        if shared.width:
            width = shared.width
        elif columns.isdigit() and int(columns) > 0:
            width = int(columns)
        else:
            width = min(shutil.get_terminal_size((PIPED_WIDTH, 24)).columns, WIDE) if terminal else PIPED_WIDTH
        encoding = (getattr(out, "encoding", None) or "utf-8").lower().replace("-", "")
        return cls(
            width=max(NARROW, width),
            color=color,
            utf8=encoding.startswith("utf"),
            quiet=shared.quiet,
            verbose=shared.verbose,
            show_suppressed=shared.show_suppressed,
        )
