"""Does rounding alone drive identical units apart? Then the gap starts at its level and moves with the precision."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nndiag.lab.bench import OutOfTimeError
from nndiag.lab.symmetry import gap
from nndiag.lab.symmetry_verdict import OUTGOING, ROUNDING, STUCK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from nndiag.lab.bench import Bench, Trial
    from nndiag.lab.symmetry_verdict import Verdict

ESCAPED = 0.01  # of the displacement: units this far apart, and from then on, have come apart
RATIO = 10.0  # by which the gap shrinks in float64 when only rounding drives it


def rounding(rough: Bench, bench: Bench, verdicts: Sequence[Verdict], steps: int) -> list[Verdict]:
    """Train on in the model's own precision and in float64.

    Kernels treat the tail of a matrix differently, so equal units may differ in their last bits after one step, and a
    curved loss lets that difference grow exponentially, in float64 as well, only later. Hence the two are compared at
    the step at which the coarse one has come apart.

    Args:
        rough: In the model's own precision, on the same batches.
        bench: In float64.
        verdicts: Of the first steps; those that are stuck are looked at.
        steps: How far.
    """
    watched = [item for item in verdicts if item.kind == STUCK]
    if not watched or rough.dtype == bench.dtype:
        return list(verdicts)
    try:
        coarse, fine = _gaps(rough, watched, steps), _gaps(bench, watched, steps)
    except OutOfTimeError:
        return list(verdicts)
    dtype = str(rough.dtype).removeprefix("torch.")
    result = []
    for item in verdicts:
        if item.kind != STUCK:
            result.append(item)
            continue
        kind, step, gaps = _judged(coarse[id(item)], fine[id(item)])
        result.append(replace(item, kind=kind, gaps=gaps, gap_step=step, dtype=dtype))
    return result


def _judged(coarse: list[float], fine: list[float]) -> tuple[str, int, tuple[float, float]]:
    """What the gaps say, the step at which they say it, and both gaps there."""
    last = min(len(coarse), len(fine)) - 1
    step = next((at for at in range(last + 1) if min(coarse[at : last + 1]) >= ESCAPED), None)
    if step is None:
        return STUCK, last, (coarse[last], fine[last])
    kind = ROUNDING if coarse[step] > RATIO * fine[step] else OUTGOING
    return kind, step, (coarse[step], fine[step])


def _gaps(bench: Bench, watched: Sequence[Verdict], steps: int) -> dict[int, list[float]]:
    """Largest gap inside each layer's groups, step by step."""
    before: dict[str, Tensor] = {}
    seen: dict[int, list[float]] = {id(item): [] for item in watched}

    def look(step: int, table: dict[str, nn.Parameter]) -> None:
        if step == 0:
            before.update({name: item.detach().clone() for name, item in table.items()})
        for item in watched:
            seen[id(item)].append(gap(item.rest or item.twins, before, table) if step else 0.0)

    def settled(_trial: Trial) -> bool:
        return all(rows[-1] > 10 * ESCAPED for rows in seen.values())

    bench.run(steps, on_step=look, until=settled)
    return seen
