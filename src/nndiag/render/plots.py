"""How each kind of series is painted."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from nndiag.render.canvas import MARGIN_BOTTOM, MARGIN_TOP, WIDTH, Key
from nndiag.render.phrases import clean, number, short, spaced
from nndiag.render.svg import COLOURS, spans, tick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.core.findings import Series
    from nndiag.render.canvas import Canvas

MAX_POINTS = 240  # a line of more points looks the same
MAX_BARS = 16
CYCLE = tuple(COLOURS.values())
HEAT_HIGH, HEAT_LOW = (0.20, 0.47, 0.86), (0.85, 0.37, 0.13)  # on either page, by transparency


def thin(xs: Sequence[float], ys: Sequence[float], most: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """Return fewer points that look the same: of each stretch its lowest and highest, in order."""
    pairs = list(zip(xs, ys, strict=False))
    if len(pairs) <= most:
        return [x for x, _ in pairs], [y for _, y in pairs]
    width = math.ceil(2 * len(pairs) / most)
    keep = {0, len(pairs) - 1}
    for start in range(0, len(pairs), width):
        stretch = [i for i in range(start, min(start + width, len(pairs))) if math.isfinite(pairs[i][1])]
        if stretch:
            keep |= {min(stretch, key=lambda i: pairs[i][1]), max(stretch, key=lambda i: pairs[i][1])}
    chosen = [pairs[index] for index in sorted(keep)]
    return [x for x, _ in chosen], [y for _, y in chosen]


def _finite(members: Sequence[Series]) -> tuple[list[float], list[str]]:
    """Return all finite values, and a remark about the others."""
    values = [value for item in members for value in item.y]
    kept = [value for value in values if math.isfinite(value)]
    lost = len(values) - len(kept)
    return kept, ([f"{lost} of {len(values)} values are not finite"] if lost else [])


def _threshold(canvas: Canvas, kept: Sequence[float], notes: list[str], *, vertical: bool = False) -> list[float]:
    """Draw the threshold where it fits; far away it would flatten the data, and is told instead."""
    limits = dict.fromkeys(item.threshold for item in canvas.members if item.threshold is not None)
    drawn = []
    for limit in limits:
        low, high = min([0.0, *kept]), max([0.0, *kept])
        near = math.isfinite(limit) and low - 3 * (high - low) <= limit <= high + 3 * (high - low)
        if near or (math.isfinite(limit) and limit > 0 and spans([*kept, limit]) and spans(kept)):
            canvas.limit(limit, vertical=vertical)
            drawn.append(limit)
        else:
            notes.append(f"threshold {number(limit)} lies outside the figure")
    return drawn


def lines(canvas: Canvas) -> list[str]:
    """Draw curves and steps; a series of two equal points is a reference: floor, prior, ln K."""
    kept, notes = _finite(canvas.members)
    xs: list[float] = []
    for index, item in enumerate(canvas.members):
        pairs = [(x, y) for x, y in zip(item.x, item.y, strict=False) if math.isfinite(x)]
        x, y = thin([x for x, _ in pairs], [y if math.isfinite(y) else math.nan for _, y in pairs])
        xs += x
        level = len(y) == 2 and y[0] == y[1]
        variable = list(COLOURS)[index]
        style: dict[str, Any] = {"color": CYCLE[index]}
        style |= {"linestyle": (0, (1, 2.2)), "linewidth": 1.6} if level else {}
        if not level and any(_covers(later, item) for later in canvas.members[index + 1 :]):
            style |= {"linewidth": 5.0, "alpha": 0.45}  # to be seen on both sides of the other
        if len(y) <= 12 and not level:
            style |= {"marker": "o", "markersize": 3.5}
        canvas.axes.plot(x, y, drawstyle="steps-post" if item.kind == "step" else "default", **style)
        canvas.legend.append(Key(variable, short(spaced(item.name)), dashed=level))
    limits = _threshold(canvas, kept, notes)
    canvas.ticks("y", [*kept, *limits])
    canvas.ticks("x", xs if _geometric(xs) else [])
    _name_positions(canvas)
    canvas.grid("y")
    canvas.axes.margins(x=0.015, y=0.08)
    return notes


def _covers(later: Series, item: Series) -> bool:
    """Whether a curve that is drawn later hides most of this one."""
    if len(later.y) != len(item.y):
        return False
    alike = sum(math.isclose(a, b, rel_tol=0.01) for a, b in zip(item.y, later.y, strict=True))
    return 2 * alike > len(item.y)


def _name_positions(canvas: Canvas) -> None:
    """Put names under the points, where x only numbers them; only every second or third where they are long."""
    item = max(canvas.members, key=lambda member: len(member.labels))
    names = [short(name, 14) for name in item.labels]
    if len(names) < 2 or len(names) != len(item.x):
        return
    step = max(1, math.ceil((5.4 * max(map(len, names)) + 8) * len(names) / (WIDTH - 60)))
    canvas.axes.set_xticks(list(item.x)[::step], names[::step])


def _geometric(xs: Sequence[float]) -> bool:
    """Whether points are spread by factors: half of them within the lowest tenth of the range."""
    ordered = sorted(value for value in xs if math.isfinite(value))
    return len(ordered) > 3 and spans(ordered) and ordered[len(ordered) // 2] < 0.1 * ordered[-1]


def bars(canvas: Canvas) -> list[str]:
    """Draw horizontal bars: names of modules are long, and phones narrow."""
    members = canvas.members
    kept, notes = _finite(members)
    names = [clean(name) for name in max((item.labels for item in members), key=len)]
    count = max(len(item.y) for item in members)
    names += [number(x) for x in max((item.x for item in members), key=len)[len(names) : count]]
    names += [str(row) for row in range(len(names), count)]
    stacked = members[0].kind == "stack" or (len(members) > 1 and members[0].unit in ("B", "bytes"))
    values = [[_at(item.y, row) for row in range(count)] for item in members]
    rows = _tallest(values, count, stacked=stacked)
    if len(rows) < count:
        notes.append(f"the {len(rows)} largest of {count}")
    labels = [short(names[row], 26) for row in rows]
    longest = max(len(label) for label in labels)
    thick = 15.0 if stacked or len(members) == 1 else 8.0 * len(members) + 6
    height = MARGIN_TOP + MARGIN_BOTTOM + len(rows) * (thick + 6)
    canvas.frame(min(0.45 * WIDTH, 12 + 5.4 * longest), height, right=46 if stacked or len(members) == 1 else 14)
    left = [0.0] * len(rows)
    bar = 0.72 if stacked or len(members) == 1 else 0.8 / len(members)
    for index, item in enumerate(members):
        lengths = [values[index][row] for row in rows]
        shift = 0.0 if stacked else (index - (len(members) - 1) / 2) * bar
        places = [row + shift for row in range(len(rows))]
        canvas.axes.barh(places, lengths, height=bar, left=left if stacked else None, color=CYCLE[index])
        if stacked:
            left = [a + b for a, b in zip(left, lengths, strict=True)]
        if len(members) > 1:
            canvas.legend.append(Key(list(COLOURS)[index], short(spaced(item.name))))
    said = left if stacked else [values[0][row] for row in rows] if len(members) == 1 else []
    _dress_bars(canvas, labels, said, left if stacked else kept, notes, stacked=stacked)
    return notes


def ranges(canvas: Canvas) -> list[str]:
    """Draw a line from least to greatest with a dot at the mean, one row per name."""
    low, middle, high = canvas.members
    _, notes = _finite(canvas.members)
    count = min(len(item.y) for item in canvas.members)
    names = [clean(name) for name in low.labels] or [str(row) for row in range(count)]
    rows = _tallest([[_at(item.y, row) for row in range(count)] for item in canvas.members], count, stacked=False)
    if len(rows) < count:
        notes.append(f"the {len(rows)} largest of {count}")
    labels = [short(names[row], 26) for row in rows]
    height = MARGIN_TOP + MARGIN_BOTTOM + max(3, len(rows)) * 15.0
    canvas.frame(min(0.45 * WIDTH, 12 + 5.4 * max(map(len, labels))), height)
    places = list(range(len(rows)))
    left, right = ([_at(item.y, row) for row in rows] for item in (low, high))
    canvas.axes.hlines(places, left, right, color=CYCLE[0], linewidth=4.5, alpha=0.4, capstyle="round")
    canvas.axes.plot([_at(middle.y, row) for row in rows], places, "o", color=CYCLE[0], markersize=4.5)
    _dress_bars(canvas, labels, [], [*left, *right], notes)
    notes.append(f"line: {low.name} to {high.name}; dot: {middle.name}")
    return notes


def are_ranges(members: Sequence[Series]) -> bool:
    """Whether three sets of bars are the least, the middle and the greatest of the same things."""
    if len(members) != 3 or any(item.kind != "bar" for item in members):
        return False
    low, middle, high = (item.y for item in members)
    return members[0].name.startswith("min") and all(a <= b <= c for a, b, c in zip(low, middle, high, strict=False))


def _dress_bars(  # noqa: PLR0913 - the parts of a picture, the last by name
    canvas: Canvas,
    labels: Sequence[str],
    lengths: Sequence[float],
    reach: Sequence[float],
    notes: list[str],
    *,
    stacked: bool = False,
) -> None:
    """Put names, numbers, threshold and ticks to the bars; parts of a sum want a linear axis."""
    axes = canvas.axes
    limits = _threshold(canvas, reach, notes, vertical=True)
    logarithmic = spans([*reach, *limits]) and not stacked
    canvas.ticks("x", [*reach, *limits] if logarithmic else [])
    if logarithmic:
        axes.set_xlim(left=0.5 * min(reach))
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=COLOURS["--ink"])
    axes.spines["left"].set_visible(False)
    canvas.grid("x")
    for row, value in enumerate(lengths):
        axes.annotate(
            tick(value) if stacked else number(value),
            (value if logarithmic else max(value, 0.0), row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center_baseline",
            color=COLOURS["--ink"],
            annotation_clip=False,
        )


def _at(values: Sequence[float], row: int) -> float:
    """Return a value that can be drawn: absent and non-finite ones have no length."""
    return values[row] if row < len(values) and math.isfinite(values[row]) else 0.0


def _tallest(values: Sequence[Sequence[float]], count: int, *, stacked: bool) -> list[int]:
    """Return the rows worth drawing, in their own order."""
    if count <= MAX_BARS:
        return list(range(count))
    measure = [(sum if stacked else max)(abs(column[row]) for column in values) for row in range(count)]
    return sorted(sorted(range(count), key=lambda row: -measure[row])[:MAX_BARS])


def histogram(canvas: Canvas) -> list[str]:
    """Draw overlaid histograms; x holds the edges of the bins, or their centres."""
    _, notes = _finite(canvas.members)
    for index, item in enumerate(canvas.members):
        heights = [value if math.isfinite(value) else 0.0 for value in item.y]
        edges = _edges([x for x in item.x if math.isfinite(x)], len(heights))
        canvas.axes.stairs(heights[: len(edges) - 1], edges, color=CYCLE[index], fill=True, alpha=0.22)
        canvas.axes.stairs(heights[: len(edges) - 1], edges, color=CYCLE[index], linewidth=1.5)
        canvas.legend.append(Key(list(COLOURS)[index], short(spaced(item.name))))
    limits = {item.threshold for item in canvas.members if item.threshold is not None}
    for limit in sorted(value for value in limits if math.isfinite(value)):
        canvas.limit(limit, vertical=True)
    canvas.ticks("y", [])
    canvas.ticks("x", [])
    canvas.grid("y")
    canvas.axes.margins(x=0.01)
    return notes


def _edges(xs: Sequence[float], bins: int) -> list[float]:
    """Return bin edges: as given, or around the centres that were given."""
    if len(xs) == bins + 1:
        return list(xs)
    if len(xs) < 2 or len(xs) != bins:
        return [float(value) for value in range(bins + 1)]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(xs)]
    return [2 * xs[0] - middles[0], *middles, 2 * xs[-1] - middles[-1]]


def heat(canvas: Canvas) -> list[str]:
    """Draw a matrix, stored row by row: x numbers its columns, labels name its rows."""
    item = canvas.members[0]
    kept, notes = _finite([item])
    columns = len(item.x) if len(item.y) % len(item.x) == 0 and len(item.x) < len(item.y) else _square(len(item.y))
    rows = [list(item.y[start : start + columns]) for start in range(0, len(item.y), columns)]
    low, high = min(kept, default=0.0), max(kept, default=1.0)
    reach = max(abs(low), abs(high)) or 1.0
    pixels = [[_tint(value / reach) for value in row] for row in rows]
    side = max(120.0, min(240.0, WIDTH * len(rows) / columns))
    canvas.frame(height=side + MARGIN_TOP + MARGIN_BOTTOM)
    canvas.axes.imshow(pixels, aspect="equal" if len(rows) == columns else "auto")
    whole = canvas.library.ticker.MaxNLocator(nbins=6, integer=True)
    canvas.axes.xaxis.set_major_locator(whole)
    canvas.axes.yaxis.set_major_locator(canvas.library.ticker.MaxNLocator(nbins=6, integer=True))
    if len(item.labels) == len(rows) <= MAX_BARS:
        names = [short(clean(name), 22) for name in item.labels]
        canvas.frame(12 + 5.4 * max(map(len, names)), side + MARGIN_TOP + MARGIN_BOTTOM)
        canvas.axes.set_yticks(range(len(rows)), names)
    if low == high:
        notes.append(f"{number(low)} everywhere")
    else:
        notes.append(f"{number(low)}{' (clear)' if low >= 0 else ''} to {number(high)}{' (deep)' if low >= 0 else ''}")
    return notes


def _square(cells: int) -> int:
    root = math.isqrt(cells)
    return root if root * root == cells else cells


def _tint(share: float) -> tuple[float, float, float, float]:
    """Return a colour whose opacity is the size, so that zero is the page itself."""
    if not math.isfinite(share):
        return (0.5, 0.5, 0.5, 0.25)
    return (*(HEAT_HIGH if share >= 0 else HEAT_LOW), min(1.0, abs(share)))
