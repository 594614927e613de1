"""A loss curve read as nats, and its tail."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nndiag.checks.entropy_floor.words import LN2
from nndiag.core.errors import NndiagError, UsageError
from nndiag.core.findings import Where
from nndiag.science.entropy_curve import Tail, coarse_dtype, tail_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nndiag.checks.entropy_floor.levels import Levels

UNEQUAL = 0.02  # of ln C: how far below it the class prior lies at least, to be told from it


@dataclass(frozen=True)
class Standing:
    """A curve in nats, and its tail."""

    name: str
    steps: NDArray[Any]
    values: NDArray[Any]
    rounding: float
    tail: Tail
    coarse: str | None  # dtype of the log, when it shows
    unit: str  # what it was written in

    @property
    def start(self) -> float:
        """The first value."""
        return float(self.values[0])

    @property
    def where(self) -> Where:
        """The curve, for findings."""
        path, _, column = self.name.rpartition(":")
        return Where(file=path, module=column) if path else Where(file=self.name)

    @property
    def evidence_n(self) -> dict[str, int]:
        """How many points."""
        return {"points": len(self.values), "tail": self.tail.points}


def standing_of(curve: Any, units: str, tail: str) -> Standing:
    """Read a curve as nats."""
    import numpy as np

    values = np.asarray(getattr(curve, "values", curve), dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise NndiagError("the curve holds fewer than two values", hint="a curve needs at least two points")
    if not np.isfinite(values).all():
        raise NndiagError(
            f"the curve is not finite at point {int((~np.isfinite(values)).argmax())}", hint="cut it before that point"
        )
    steps = np.asarray(getattr(curve, "steps", np.arange(len(values))), dtype=np.float64)
    rounding, name = float(getattr(curve, "rounding", 0.0)), str(getattr(curve, "name", "curve"))
    unit = str(getattr(curve, "unit", "")) or units
    coarse = coarse_dtype(values, rounding)
    if unit == "perplexity":
        if values.min() < 1.0 - rounding:
            raise NndiagError(
                f"{name} holds {values.min():.4g}, no perplexity", hint="rename the column if it is a loss"
            )
        rounding = rounding / float(values[-1])
        values = np.log(np.maximum(values, 1.0))
    elif unit == "bits":
        values, rounding = values * LN2, rounding * LN2
    share = tail_of(values, _points(tail, len(values)))
    return Standing(name, steps, values, rounding, share, coarse, unit)


def equal_odds(loss: float, levels: Levels) -> bool:
    """Whether a loss is that of equal probabilities, and the class prior lies below."""
    apart = levels.uniform - levels.prior > UNEQUAL * levels.uniform
    return apart and abs(loss - levels.uniform) <= 1e-4 * levels.uniform


def at_equal_odds(at: Standing, levels: Levels) -> bool:
    """Whether the curve rests at ln C, has never been better, and a constant answer would be."""
    tail, uniform = at.tail, levels.uniform
    if uniform - levels.prior <= UNEQUAL * uniform or not tail.flat(0.005 * uniform):
        return False
    off = abs(tail.mean - uniform)
    return off <= min(max(3.0 * tail.se, 0.0005 * uniform), 0.003 * uniform) and bool(at.values.min() >= 0.97 * uniform)


def _points(tail: str, n: int) -> int:
    """How many points `10%` or `50` means."""
    try:
        wanted = math.ceil(float(tail.rstrip("% ")) / 100.0 * n) if tail.strip().endswith("%") else int(tail)
    except ValueError as broken:
        raise UsageError(
            f"--tail {tail} is no share and no count", hint="for example --tail 10% or --tail 50"
        ) from broken
    if not 0 < wanted <= n:
        raise UsageError(f"--tail {tail} asks for {wanted} of {n} points", hint="for example --tail 10%")
    return wanted
