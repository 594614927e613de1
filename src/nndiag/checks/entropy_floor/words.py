"""Numbers as people read them."""

from __future__ import annotations

import math

LN2 = math.log(2.0)


def num(value: float, digits: int = 6) -> str:
    """A number at six significant digits."""
    return f"{value:.{digits}g}"


def plus_minus(value: float, se: float) -> str:
    """A value with its standard error, where there is one."""
    if not math.isfinite(se) or se <= 1e-9 * abs(value):
        return num(value)
    return f"{value:.6g} ± {se:.2g}"


def percent(share: float) -> str:
    """A share as a percentage at two or three significant digits."""
    return f"{100.0 * share:.3g} %"


def both(nats: float) -> str:
    """A level in nats and bits."""
    return f"{num(nats)} nats ({num(nats / LN2)} bits)"


def interval(value: float, se: float) -> tuple[float, float] | None:
    """The 95 % interval of a mean."""
    return (value - 1.96 * se, value + 1.96 * se) if math.isfinite(se) and se > 0 else None
