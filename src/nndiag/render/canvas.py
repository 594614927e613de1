"""One pair of axes in the page's style, lent by matplotlib."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.render.phrases import number
from nndiag.render.svg import COLOURS, inline, spans, tick

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nndiag.core.findings import Series

WIDTH, HEIGHT = 360.0, 190.0  # points; text in it is read at this size on a phone
FONT = 9.5
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 42.0, 10.0, 10.0, 22.0

_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nndiag",
    "font.size": FONT,
    "font.family": ["DejaVu Sans"],
    "text.usetex": False,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "axes.linewidth": 0.8,
    "path.simplify": True,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "image.interpolation": "none",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend: which colour, what shape."""

    colour: str  # a CSS variable
    name: str
    dashed: bool = False


@contextmanager
def matplotlib() -> Iterator[Any]:
    """Lend matplotlib with settings of our own, whatever the user's are."""
    library = sys.modules.get("matplotlib") or _import()
    for part in ("figure", "backends.backend_svg", "ticker"):
        import_module(f"matplotlib.{part}")
    with library.rc_context({**library.rcParamsDefault, **_RC}):
        yield library


def _import() -> Any:
    """Import matplotlib without a trace: at import it writes a list of fonts, unless it finds one."""
    before = os.environ.get("MPLCONFIGDIR")
    with tempfile.TemporaryDirectory(prefix="nndiag-") as folder:
        for known in _lists_of_fonts(before):
            with suppress(OSError):
                shutil.copy(known, folder)
        os.environ["MPLCONFIGDIR"] = folder
        try:
            library = import_module("matplotlib")
            import_module("matplotlib.font_manager")
        finally:
            del os.environ["MPLCONFIGDIR"]
            if before is not None:
                os.environ["MPLCONFIGDIR"] = before
    return library


def _lists_of_fonts(settings: str | None) -> list[Path]:
    """Return the lists that matplotlib wrote when the user drew something: to look through all fonts takes a second."""
    with suppress(OSError, RuntimeError):  # no home
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matplotlib"
        folders = [Path(settings)] if settings else [cache, Path.home() / ".matplotlib"]
        return [path for folder in folders for path in folder.glob("fontlist-*.json")]
    return []


class Canvas:
    """One pair of axes in the page's style, and the legend that goes with it."""

    def __init__(self, library: Any, members: Sequence[Series]) -> None:
        self.library = library
        self.members = list(members)
        self.legend: list[Key] = []
        self.height = HEIGHT
        self.figure = library.figure.Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        self.axes = self.figure.add_axes((0.1, 0.1, 0.8, 0.8))
        self.frame()
        self.axes.set_facecolor("none")
        for side in ("top", "right"):
            self.axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            self.axes.spines[side].set_color(COLOURS["--line"])
        self.axes.tick_params(colors=COLOURS["--muted"], length=3, width=0.8, labelsize=FONT)
        self.axes.tick_params(axis="both", color=COLOURS["--line"])
        self.axes.set_axisbelow(True)

    def frame(self, left: float = MARGIN_LEFT, height: float = HEIGHT, right: float = MARGIN_RIGHT) -> None:
        """Place the axes inside the margins, in points."""
        self.height = height
        self.figure.set_size_inches(WIDTH / 72, height / 72)
        box = (
            left / WIDTH,
            MARGIN_BOTTOM / height,
            (WIDTH - left - right) / WIDTH,
            (height - MARGIN_TOP - MARGIN_BOTTOM) / height,
        )
        self.axes.set_position(box)

    def grid(self, axis: str) -> None:
        """Draw thin lines at the ticks of this axis."""
        self.axes.grid(axis=axis, color=COLOURS["--line"], linewidth=0.6)

    def ticks(self, axis: str, values: Sequence[float]) -> None:
        """Choose a linear or logarithmic axis with few, short labels."""
        ticker = self.library.ticker
        side = self.axes.xaxis if axis == "x" else self.axes.yaxis
        if spans(values):
            (self.axes.set_xscale if axis == "x" else self.axes.set_yscale)("log")
            side.set_major_locator(ticker.LogLocator(numticks=6))
            side.set_minor_locator(ticker.NullLocator())
        else:
            side.set_major_locator(ticker.MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        side.set_major_formatter(ticker.FuncFormatter(lambda value, _place: tick(value)))

    def limit(self, value: float, *, vertical: bool = False) -> None:
        """Draw a threshold."""
        line = self.axes.axvline if vertical else self.axes.axhline
        line(value, color=COLOURS["--limit"], linewidth=1.2, linestyle=(0, (4, 3)))
        self.legend.append(Key("--limit", f"threshold {number(value)}", dashed=True))

    def svg(self, prefix: str, spoken: str) -> str:
        """Return the drawing as an element of a page."""
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        self.figure.savefig(out, format="svg", metadata=nothing, transparent=True)
        return inline(out.getvalue(), prefix, spoken)
