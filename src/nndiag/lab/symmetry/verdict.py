"""What became of a group of identical units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nndiag.lab.symmetry.groups import Twins
    from nndiag.lab.units.layers import UnitView

STUCK, ROUNDING, DROPOUT, DEAD = "stuck", "rounding only", "dropout only", "no gradient"
LABELS, OUTGOING, POSITION, HEAD = "labels", "outgoing weights", "position", "random head"
UNASKED = "not established"  # they came apart; the time did not suffice to ask why
PATIENT = (STUCK, ROUNDING, DROPOUT)  # verdicts that are findings


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one layer's groups."""

    twins: Twins
    kind: str
    rest: Twins | None  # what is still together
    steps: int
    healed: int | None = None  # distinct units after the same steps from a fresh draw of this layer
    helps: tuple[str, ...] = ()  # what else would break the tie, tried
    gaps: tuple[float, float] | None = None  # in the model's precision, in float64 at the same step
    gap_step: int = 0
    dtype: str = ""
    runs: tuple[tuple[str, int], ...] = ()  # what was done otherwise, and the distinct units it left

    @property
    def view(self) -> UnitView:
        """The layer."""
        return self.twins.view

    @property
    def width_after(self) -> int:
        """Distinct units after the steps."""
        return self.rest.width if self.rest is not None else self.view.units
