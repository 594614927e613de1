"""Series as figures: one inline SVG per group, coloured by the page's own variables, drawn by matplotlib."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.render import plots
from nndiag.render.canvas import Canvas, matplotlib
from nndiag.render.phrases import clean, number, spaced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nndiag.core.findings import Series
    from nndiag.render.canvas import Key

MAX_LINES = 6


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn group of series: title and legend are the page's, so that they wrap and can be read aloud."""

    title: str
    units: str
    svg: str
    legend: tuple[Key, ...]
    notes: str


def groups(series: Sequence[Series]) -> list[tuple[str, list[Series]]]:
    """Return the series that share a figure, in order of appearance; empty ones are left out."""
    found: dict[str, list[Series]] = {}
    for item in series:
        if item.x and item.y:
            title = item.group or item.name
            if item.kind == "heat" and title in found:
                title = f"{title}: {item.name}"  # a matrix fills its figure
            found.setdefault(title, []).append(item)
    return list(found.items())


def draw(title: str, members: Sequence[Series], prefix: str) -> Figure:
    """Draw one group.

    Args:
        title: The group's name.
        members: Series of one kind; the kind of the first decides.
        prefix: Makes every id of this figure its own within the page.
    """
    with matplotlib() as library:
        painter = plots.ranges if plots.are_ranges(members) else _painter(members[0])
        alike = [item for item in members if _painter(item) is _painter(members[0])]
        canvas = Canvas(library, alike[:MAX_LINES])
        notes = painter(canvas)
        hidden = len(members) - len(canvas.members)
        if hidden:
            notes.append(f"{hidden} more series are not drawn")
        svg = canvas.svg(prefix, _spoken(title, members))
    first = members[0]
    axis = clean(first.x_unit)
    unit = "" if first.unit == "1" or first.unit in title else clean(first.unit)
    units = f"{unit} by {axis}".strip() if axis else unit
    return Figure(spaced(title), units, svg, tuple(canvas.legend), "; ".join(notes))


def _painter(item: Series) -> Callable[[Canvas], list[str]]:
    return {"bar": plots.bars, "stack": plots.bars, "histogram": plots.histogram, "heat": plots.heat}.get(
        item.kind, plots.lines
    )


def _spoken(title: str, members: Sequence[Series]) -> str:
    """Return the figure in words, for those who hear the page."""
    parts = []
    for item in members[:MAX_LINES]:
        kept = [value for value in item.y if math.isfinite(value)]
        if kept:
            parts.append(f"{clean(item.name)} from {number(min(kept))} to {number(max(kept))} {clean(item.unit)}")
    return f"{clean(title)}: " + "; ".join(parts)
