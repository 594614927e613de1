"""How numbers, places, codes and foreign text are written, in every text format alike."""

from __future__ import annotations

import itertools
import math
import re
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nndiag.core.findings import Evidence, Finding, Scalar, Where
    from nndiag.core.report import Report

_ASCII = {
    "✗": "x", "✓": "+", "→": "->", "←": "<-", "·": "|", "–": "-", "—": "-", "−": "-", "×": "x", "÷": "/", "±": "+/-",
    "≥": ">=", "≤": "<=", "≈": "~", "√": "sqrt", "²": "^2", "³": "^3", "½": "1/2", "¼": "1/4", "∞": "inf", "…": "...",
    "σ": "sigma", "λ": "lambda", "μ": "mu", "κ": "kappa", "ε": "eps", "β": "beta", "Δ": "delta", "Σ": "sum", "∝": "~",
    "‖": "||", "₂": "2", "₁": "1", "‘": "'", "’": "'", "“": '"', "”": '"', "\u00a0": " ", "\u202f": " ", "─": "-",
    "┊": "|", "│": "|", "γ": "gamma", "α": "alpha", "η": "eta", "ρ": "rho", "π": "pi", "′": "'",
}  # fmt: skip
_SHORT_WORDS = ("a", "an", "as", "at", "by", "do", "if", "in", "is", "it", "no", "of", "on", "or", "so", "to")
_SPARKS = "▁▂▃▄▅▆▇█"
_ASCII_SPARKS = "_.:-=+*#"


def clean(text: str, *, utf8: bool = True) -> str:
    """Return text in which control characters are spelled out; new lines stay, tabs become spaces."""
    shown = "".join(
        char if char == "\n" or char.isprintable() else char.encode("unicode_escape").decode()
        for char in text.replace("\t", "  ")
    )
    return shown if utf8 else ascii_only(shown)


def one_line(text: str, *, utf8: bool = True) -> str:
    """Return `clean` text on one line."""
    return clean(" ".join(text.splitlines()), utf8=utf8)


def ascii_only(text: str) -> str:
    """Write the signs we use in ASCII; what is left becomes an escape."""
    plain = "".join(_ASCII.get(char, char) for char in text)
    return plain.encode("ascii", "backslashreplace").decode()


def number(value: float | None, digits: int = 4) -> str:
    """Return a number for the eye: four significant digits, thousands separated.

    Example:
        >>> number(1.0266190), number(50257), number(3.2e-7), number(float("inf"))
        ('1.027', '50,257', '3.2e-07', 'inf')
    """
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-4 <= abs(value) < 10**digits:
        return f"{value:.{digits}g}"
    if abs(value) < 1e7 and abs(value) >= 1:
        return f"{value:,.0f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{exponent}"


def cell(value: Scalar) -> str:
    """Return one table cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else (value or "")


def place_of(where: Where, *, utf8: bool = True) -> str:
    """Return the place inside the model: module "2"→"3"; a key, a column or a feature goes without that word."""
    arrow = "→" if utf8 else "->"
    parts = [f'"{name}"' for name in (where.module, where.next) if name is not None]
    return (word_of(where) + arrow.join(parts)) if parts else ""


def word_of(where: Where) -> str:
    """Return "module " before the name of one: what has no class may be a key, a column or a feature."""
    return "module " if where.cls or where.next else ""


def argued(message: str, behind: str) -> str:
    """Return a message with what stands behind it in the brackets it may have already.

    Example:
        >>> argued("2 of 3 never change (the first is 0)", "512 rows"), argued("p is 0.8", "threshold 0.7")
        ('2 of 3 never change (the first is 0; 512 rows)', 'p is 0.8 (threshold 0.7)')
    """
    if not behind:
        return message
    own = message.endswith(")") and message.count("(") == message.count(")") == 1
    return f"{message[:-1]}; {behind})" if own else f"{message} ({behind})"


def sentence(answer: str) -> str:
    """Return an answer as a sentence: a capital, unless it begins with a name, and a full stop.

    Example:
        >>> sentence("the loss ends at 1.4"), sentence("lr 0.1 is kept."), sentence("0.weight never moves")
        ('The loss ends at 1.4.', 'lr 0.1 is kept.', '0.weight never moves.')
    """
    text = capital(answer)
    return text if not text or text[-1] in ".!?:" else f"{text}."


def capital(text: str) -> str:
    """Return text whose first word begins with a capital, if it is a plain word and no name of a thing in code."""
    first, _, rest = text.partition(" ")
    word = first.rstrip(",;:")
    plain = word.isalpha() and word.islower() and (len(word) > 2 or word in _SHORT_WORDS) and not rest.startswith("=")
    return text[:1].upper() + text[1:] if plain else text


def proof(evidence: Evidence) -> str:
    """Return what stands behind a number: detail, n, interval, threshold."""
    parts = [evidence.detail] if evidence.detail else []
    parts += [f"{count:,} {name}" for name, count in evidence.n.items() if f"{count} {name}" not in evidence.detail]
    if evidence.interval is not None:
        low, high = evidence.interval
        parts.append(f"95 % interval {number(low)}–{number(high)}")
    if evidence.threshold is not None:
        parts.append(f"threshold {number(evidence.threshold)}")
    return ", ".join(parts)


def title_of(item: Finding) -> str:
    """Return the rule's name as words."""
    return item.rule.name.replace("-", " ")


def ranges(codes: Iterable[str]) -> str:
    """Write runs of codes short.

    Example:
        >>> ranges(["DRP001", "DRP002", "DRP003", "DRP101", "DRP105"])
        'DRP001-003 DRP101 DRP105'
    """
    runs: list[list[str]] = []
    for code in sorted(set(codes)):
        last = runs[-1][-1] if runs else ""
        if last[:3] == code[:3] and re.fullmatch(r"\d{3}", code[3:]) and int(code[3:]) == int(last[3:]) + 1:
            runs[-1].append(code)
        else:
            runs.append([code])
    return " ".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1][3:]}" for run in runs)


def skips_by_reason(report: Report) -> list[tuple[str, str]]:
    """Return (codes, reason) with equal reasons joined, in the order of the codes."""
    ordered = sorted(report.skipped, key=lambda skip: skip.reason)
    grouped = [
        (ranges(skip.code for skip in skips), reason)
        for reason, skips in ((key, list(items)) for key, items in groupby(ordered, key=lambda skip: skip.reason))
    ]
    return sorted(grouped)


def counts(*reports: Report) -> str:
    """Return "1 error, 2 warnings", or "nothing found", over all the reports."""
    from nndiag.core.findings import Severity

    parts = []
    for level in sorted(Severity, reverse=True):
        many = sum(report.count(level) for report in reports)
        if many:
            parts.append(f"{many} {level.word}{'s' if many > 1 else ''}")
    suppressed = sum(len(report.findings) - len(report.active) for report in reports)
    if suppressed:
        parts.append(f"{suppressed} suppressed")
    return ", ".join(parts) or "nothing found"


def spark(values: Sequence[float], width: int, threshold: float | None = None, *, utf8: bool = True) -> tuple[str, str]:
    """Draw a curve in one line.

    Returns:
        The curve at most `width` characters long, and the threshold as one block of the same scale ("" without one).
    """
    signs = _SPARKS if utf8 else _ASCII_SPARKS
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "", ""
    low = min([*finite, *([threshold] if threshold is not None else [])])
    high = max([*finite, *([threshold] if threshold is not None else [])])
    span = high - low or 1.0

    def block(value: float) -> str:
        if not math.isfinite(value):
            return "?" if not utf8 else "╳"
        return signs[min(len(signs) - 1, int((value - low) / span * len(signs)))]

    return "".join(map(block, _stretches(values, width))), block(threshold) if threshold is not None else ""


def _stretches(values: Sequence[float], width: int) -> list[float]:
    """Return at most `width` values that keep the curve's ends, and of each stretch what stands out most."""
    many = len(values)
    if many <= width:
        return list(values)
    finite = sorted(value for value in values if math.isfinite(value))
    usual = finite[len(finite) // 2]

    def outstanding(value: float) -> float:
        return abs(value - usual) if math.isfinite(value) else math.inf

    edges = [round(index * (many - 2) / max(1, width - 2)) + 1 for index in range(width - 1)]
    inner = [max(values[start:end], key=outstanding) for start, end in itertools.pairwise(edges)]
    return [values[0], *inner, values[-1]]
