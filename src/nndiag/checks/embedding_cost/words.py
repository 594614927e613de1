"""Sizes and times as people say them."""

from __future__ import annotations

import re

from nndiag.core.errors import UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)


def parse_bytes(text: str) -> float:
    """Return bytes from "40GiB", "80 GB", "512M" or a plain number.

    Raises:
        UsageError: It is no size, or none above zero.

    Example:
        >>> parse_bytes("40GiB") == 40 * 2**30, parse_bytes("80GB") == 80e9
        (True, True)
    """
    match = _SIZE.fullmatch(text)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"'{text}' is no size of memory", hint="write it as --memory 40GiB")
    prefix = match[2].upper()
    factor = float(2 ** (10 * " KMGT".index(prefix))) if match[3] and prefix else float(_UNITS[prefix])
    return float(match[1]) * factor


def size(count: float) -> str:
    """Return bytes in decimal units: "9.2 GB"."""
    for word, unit in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= unit:
            return f"{count / unit:.3g} {word}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """Return a time: "1.02 s", "84.3 ms", "3.1 us"."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} us"


def percent(share: float) -> str:
    """Return a share with as many digits as it needs: "91 %", "0.064 %"."""
    points = 100 * share
    if points >= 99.5 and share < 1:
        return f"{min(points, 99.99):.4g} %"
    return f"{points:.0f} %" if points >= 9.95 else f"{points:.2g} %"


def times(ratio: float) -> str:
    """Return a factor: "580x", "2.6x"."""
    return f"{ratio:,.0f}x" if ratio >= 20 else f"{ratio:.2g}x"
