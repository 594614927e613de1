"""Turns reports into strings. Never prints, never imports torch or numpy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from nndiag.render.look import Look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.core.report import Report

# format -> module:function; each takes the reports, the text formats also take the look of the terminal
_RENDERERS = {
    "text": "text:render",
    "concise": "concise:render",
    "json": "json:render",
    "jsonl": "json:render_lines",
    "sarif": "sarif:render",
    "junit": "junit:render",
    "github": "annotations:render_github",
    "gitlab": "annotations:render_gitlab",
    "md": "markdown:render",
    "html": "html:render",
}
FORMATS = tuple(_RENDERERS)
_STYLED = ("text", "concise")

__all__ = ["FORMATS", "Look", "render"]


def render(reports: Sequence[Report], form: str, look: Look | None = None) -> str:
    """Return the reports in this format, ending with a newline where the format is made of lines."""
    module, function = _RENDERERS[form].split(":")
    renderer = getattr(import_module(f"nndiag.render.{module}"), function)
    text: str = renderer(reports, look or Look()) if form in _STYLED else renderer(reports)
    return text
