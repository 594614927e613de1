"""SVG inside a page: axes, colours of the page, ids of its own, and the small scale of a finding."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from nndiag.render.phrases import number, quantity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nndiag.core.findings import Finding

LOG_SPAN = 300.0  # a ratio beyond which a linear axis shows nothing

# Stand-ins for CSS variables: matplotlib wants colours, the page has two sets of them.
COLOURS: Mapping[str, str] = {
    "--c1": "#00f001",
    "--c2": "#00f002",
    "--c3": "#00f003",
    "--c4": "#00f004",
    "--c5": "#00f005",
    "--c6": "#00f006",
    "--muted": "#00f007",
    "--line": "#00f008",
    "--ink": "#00f009",
    "--limit": "#00f00a",
}


def spans(values: Sequence[float]) -> bool:
    """Whether positive values lie so far apart that only a logarithmic axis shows them all."""
    kept = [value for value in values if math.isfinite(value)]
    return len(kept) > 1 and min(kept) > 0 and max(kept) / min(kept) >= LOG_SPAN


def tick(value: float) -> str:
    """Return a short axis label: 1.5, 200, 10k, 2M, 1e-5.

    Example:
        >>> [tick(value) for value in (0, 1.5, 10000, 2.5e6, 1e-5, -0.25)]
        ['0', '1.5', '10k', '2.5M', '1e-5', '−0.25']
    """
    size = abs(value)
    text = f"{value:.3g}"
    if size >= 1e12 or 0 < size < 1e-3:
        head, _, power = f"{value:.1e}".partition("e")
        text = f"{head.removesuffix('.0')}e{int(power)}"
        return text.replace("-", "−", 1) if value < 0 else text
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= scale and (unit != "k" or size >= 1e4):
            return f"{value / scale:.3g}{unit}".replace("-", "−")
    if size >= 1000:
        text = f"{value:.0f}"
    return text.replace("-", "−")


_TAG = re.compile(r"<[^>]*>")
_LONG = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"font: ?([\d.]+)px [^;\"]*|font-family: ?[^;\"]*;? ?")
_ID = re.compile(r' id="([^"]+)"')


def inline(svg: str, prefix: str, spoken: str) -> str:
    """Return matplotlib's document as an element: no prolog, no metadata, own ids, the page's colours and font."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    used = set(re.findall(r"#([\w.-]+)", body))
    body = _ID.sub(lambda match: f' id="{prefix}{match[1]}"' if match[1] in used else "", body)
    body = re.sub(r"(url\(#|xlink:href=\"#)", rf"\g<1>{prefix}", body).replace("xlink:href", "href")
    body = _TAG.sub(_tidy, body)
    body = re.sub(r">\s+<", "><", body)
    for variable, colour in COLOURS.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r"<defs>\s*</defs>|<g>\s*</g>", "", body)
    label = escape(spoken)
    size = re.search(r'viewBox="([^"]+)"', body)
    box = size[1] if size else "0 0 360 190"
    inner = body[body.index(">") + 1 :]
    return f'<svg class="plot" viewBox="{box}" role="img" aria-label="{label}">{inner}'.strip()


def _tidy(match: re.Match[str]) -> str:
    """Shorten one tag: two decimals, no line breaks, the page's font."""
    text = " ".join(match[0].split())
    if "data:image" in text:
        return match[0].replace("\n", "")
    text = _LONG.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), text)
    text = _FONT.sub(lambda found: f"font-size: {found[1]}px" if found[1] else "", text)
    return re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", text)


def escape(text: str) -> str:
    """Return text as content or attribute of an element."""
    for mark, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(mark, name)
    return text


def gauge(finding: Finding) -> str:
    """Return a small scale: the value, its interval and the threshold; nothing when there is nothing to compare."""
    evidence = finding.evidence
    value, limit = evidence.value, evidence.threshold
    if value is None or limit is None or not (math.isfinite(value) and math.isfinite(limit)) or value == limit:
        return ""
    unit = evidence.unit if evidence.unit in ("B", "bytes") else ""
    low, high = evidence.interval or (value, value)
    marks = [value, limit, *(edge for edge in (low, high) if math.isfinite(edge))]
    if evidence.unit in ("ratio", "x") and min(marks) > 0:
        marks.append(1.0)  # what healthy is
    elif min(marks) > 0 and max(marks) / min(marks) < 20 and abs(value - limit) > 0.05 * max(marks):
        marks.append(0.0)  # so that lengths compare
    logarithmic = min(marks) > 0 and max(marks) / min(marks) > 20

    def scale(number_: float) -> float:
        return math.log(number_) if logarithmic else number_

    left, right = min(map(scale, marks)), max(map(scale, marks))

    def at(number_: float) -> str:
        share = (scale(number_) - left) / ((right - left) or 1.0)
        return f"{8 + 204 * min(1.0, max(0.0, share)):.1f}"

    parts = ['<line class="axis" x1="8" x2="212" y1="12" y2="12"/>']
    if evidence.interval and math.isfinite(low) and math.isfinite(high):
        parts.append(f'<line class="span" x1="{at(low)}" x2="{at(high)}" y1="12" y2="12"/>')
    parts.append(f'<line class="limit" x1="{at(limit)}" x2="{at(limit)}" y1="4" y2="20"/>')
    parts.append(f'<circle cx="{at(value)}" cy="12" r="5"/>')
    parts += _captions(float(at(value)), float(at(limit)), quantity(value, unit), f"threshold {quantity(limit, unit)}")
    spoken = escape(f"{number(value)} against a threshold of {number(limit)}")
    return f'<svg class="gauge" viewBox="0 0 220 36" role="img" aria-label="{spoken}">{"".join(parts)}</svg>'


def _captions(value_at: float, limit_at: float, value: str, limit: str) -> list[str]:
    """Write both numbers below the scale, each on its own side of the other."""
    first, second = ((limit_at, limit, "limit"), (value_at, value, "value"))
    if value_at < limit_at:
        first, second = second, first
    start = max(2.0, min(first[0] - 8, 214 - 5.6 * (len(first[1]) + len(second[1]) + 2)))
    end = min(218.0, max(second[0] + 8, start + 5.6 * (len(first[1]) + len(second[1]) + 2)))
    return [
        f'<text class="{first[2]}" x="{start:.1f}" y="33">{escape(first[1])}</text>',
        f'<text class="{second[2]}" x="{end:.1f}" y="33" text-anchor="end">{escape(second[1])}</text>',
    ]
