"""A report as the last value of a notebook cell, and in a rich console."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from nndiag.render import render

if TYPE_CHECKING:
    from nndiag.core.report import Report


def in_frame(report: Report) -> str:
    """Return the page in a frame of its own, so that its style stays inside."""
    page = escape(render([report], "html"))
    return f'<iframe srcdoc="{page}" style="width: 100%; height: 640px; border: 0" title="nndiag report"></iframe>'


def in_console(report: Report) -> Any:
    """Return the text report for rich; what came from outside is never markup."""
    from rich.text import Text

    return Text.from_ansi(render([report], "text"))
