"""Losses in what a script printed: `iter 100: loss 2.31, time 5ms`, `Train Epoch: 1 [640/60000]  Loss: 2.31`."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from nndiag.load.door import STDIN, Opened, text_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE = 200  # lines that decide whether losses are printed
FEWEST = 2  # lines with a loss among them
_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|[-+]?inf)"
_LOSS = re.compile(rf"\b((?:[a-z]+[ _/-])?loss)\b['\"]?\s*[:=]?\s*{_NUMBER}(?![\w.])", re.IGNORECASE)
_STEP = re.compile(r"\b(?:global[ _]step|step|iter(?:ation)?|it|epoch)\b['\"]?\s*[:=\[#]?\s*(\d+)", re.IGNORECASE)


def printed_losses(opened: Opened) -> dict[str, list[tuple[int, str, str]]]:
    """Return (line, step, value) of every loss that is printed, by its name; empty where no lines say "loss NUMBER"."""
    if opened.path == STDIN or opened.kind not in ("text", "json"):
        return {}
    first = next((line.strip() for line in islice(text_lines(opened), SAMPLE) if line.strip()), "")
    if opened.kind == "json" and not first.startswith("{'"):  # Python's own notation, as the Trainer prints it
        return {}
    if sum(bool(_LOSS.search(line)) for line in islice(text_lines(opened), SAMPLE)) < FEWEST:
        return {}
    found: dict[str, list[tuple[int, str, str]]] = {}
    for name, cell in _cells(opened):
        found.setdefault(name, []).append(cell)
    return found


def _cells(opened: Opened) -> Iterator[tuple[str, tuple[int, str, str]]]:
    for number, line in enumerate(text_lines(opened), start=1):
        step = _STEP.search(line)
        for label, value in _LOSS.findall(line):
            yield label.lower(), (number, step.group(1) if step else "", value)
