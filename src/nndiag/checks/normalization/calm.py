"""Does a short run at the user's learning rate grow where one at a smaller rate stays calm?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.core.errors import NndiagError

if TYPE_CHECKING:
    from nndiag.checks.normalization.bench import Bench
    from nndiag.checks.normalization.fed import Rate
    from nndiag.lab.training import TrainingCurve

CALMER = (2, 20, 200)  # parts of the ceiling that are tried
SETTLING = 30  # steps in which a start that is high by design comes down
PROBE = 15  # steps of the run that confirms a ceiling


def calm_below(bench: Bench, rate: Rate, ceiling: float, jump: float) -> float | None:
    """The rate at which a short run is calm where the user's diverges; 0 for none, None when it must not be tried.

    The first layer's curvature bounds that of the whole network from below: half its ceiling may still be too much.
    """
    if bench.subject.run.train is False or bench.subject.run.seconds_left < 2:
        return None
    try:
        if not _grows(_probe(bench, rate.lr), jump):
            return 0.0
        tried = (ceiling / part for part in CALMER)
        return next((lr for lr in tried if not _grows(_probe(bench, lr), jump)), 0.0)
    except NndiagError:
        return None


def comes_down(bench: Bench, limit: float, start: float) -> bool:
    """Whether a short run at the user's rate (the optimizer's own without one) undoes most of a high start."""
    from nndiag.checks.normalization.fed import rate_of

    rate = rate_of(bench)
    if rate is None or bench.subject.run.train is False or bench.subject.run.seconds_left < 2:
        return False
    try:
        curve = _probe(bench, rate.lr, SETTLING)
    except NndiagError:
        return False
    late = curve.losses[-5:]
    return not curve.diverged and bool(late) and sum(late) / len(late) < max(limit, (limit + start) / 2)


def _probe(bench: Bench, lr: float, steps: int = PROBE) -> TrainingCurve:
    from nndiag.lab.optimizers import make_optimizer
    from nndiag.lab.training import micro_train

    model = bench.make()
    assert bench.objective is not None
    return micro_train(
        model,
        bench.batches[:4],
        bench.objective,
        make_optimizer(bench.subject.training, model, lr=lr),
        steps,
        seed=bench.subject.run.seed,
        seconds=bench.subject.run.seconds_left / 4,
    )


def _grows(curve: TrainingCurve, jump: float) -> bool:
    """Whether the loss ends above its start, or jumped far above it."""
    if curve.diverged or len(curve.losses) < 3:
        return curve.diverged
    late = curve.losses[-5:]
    return sum(late) / len(late) > jump * curve.losses[0] or max(curve.losses[1:]) > 5 * curve.losses[0]
