"""Does rounding alone drive identical units apart? Then the gap starts at its level and moves with the precision."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from nndiag.lab.bench import OutOfTimeError
from nndiag.lab.symmetry.groups import gap
from nndiag.lab.symmetry.verdict import OUTGOING, ROUNDING, STUCK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from nndiag.lab.bench import Bench, Trial
    from nndiag.lab.symmetry.verdict import Verdict

ESCAPED = 0.01  # of the displacement: units this far apart, and from then on, have come apart
GROWTH = 10.0  # from its smallest
EARLY, SMALL = 5, 1e-8  # steps after which, and gap below which, rounding is all there is in float64
RATIO = 10.0  # by which a gap that starts larger shrinks in float64 when only rounding drives it


def rounding(
    rough: Bench, bench: Bench, verdicts: Sequence[Verdict], steps: int, most: int | None = None
) -> list[Verdict]:
    """Train on in the model's own precision and in float64.

    Kernels treat the tail of a matrix differently, so equal units may differ in their last bits after one step, and a
    curved loss lets that difference grow exponentially, in float64 as well, only later. Hence the two are compared at
    the step at which the coarse one has come apart.

    Args:
        rough: In the model's own precision, on the same batches.
        bench: In float64.
        verdicts: Of the first steps; those that are stuck are looked at.
        steps: How far.
        most: How far where a gap grows so fast by then that it is expected to part the units before that.
    """
    watched = [item for item in verdicts if item.kind == STUCK]
    if not watched or rough.dtype == bench.dtype:
        return list(verdicts)
    try:
        coarse = _gaps(rough, watched, most or steps, doubt=steps)
        fine = _gaps(bench, watched, max(len(rows) for rows in coarse.values()) - 1)
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
    """What the gaps say, the step at which they say it, and both gaps there.

    A gap that does not grow is no escape: where the true gradient is zero, Adam's first steps are rounding themselves.
    """
    last = min(len(coarse), len(fine)) - 1
    step = next((at for at in range(last + 1) if min(coarse[at : last + 1]) >= ESCAPED), None)
    if step is None or coarse[last] < GROWTH * min(coarse[1 : last + 1]):
        return STUCK, last, (coarse[last], fine[last])
    from_rounding = max(fine[: EARLY + 1]) < SMALL or coarse[step] > RATIO * fine[step]
    return ROUNDING if from_rounding else OUTGOING, step, (coarse[step], fine[step])


def _expected(rows: list[float]) -> float:
    """The step at which a gap that goes on growing as in its second half parts the units."""
    last = len(rows) - 1
    middle, now = rows[last // 2], rows[last]
    if not 0 < middle < now:
        return math.inf
    return last + math.log(ESCAPED * GROWTH / now) / math.log(now / middle) * (last - last // 2)


def _gaps(bench: Bench, watched: Sequence[Verdict], steps: int, doubt: int | None = None) -> dict[int, list[float]]:
    """Largest gap inside each layer's groups, step by step; goes on after `doubt` steps only for what may part."""
    before: dict[str, Tensor] = {}
    seen: dict[int, list[float]] = {id(item): [] for item in watched}

    def look(step: int, table: dict[str, nn.Parameter]) -> None:
        if step == 0:
            before.update({name: item.detach().clone() for name, item in table.items()})
        for item in watched:
            seen[id(item)].append(gap(item.rest or item.twins, before, table) if step else 0.0)

    def settled(trial: Trial) -> bool:
        if trial.steps == doubt and not any(_expected(rows) <= steps for rows in seen.values()):
            return True
        enough = trial.steps >= 4 * EARLY
        return enough and all(rows[-1] > max(10 * ESCAPED, 10 * GROWTH * min(rows[1:])) for rows in seen.values())

    bench.run(steps, on_step=look, until=settled)
    return seen
