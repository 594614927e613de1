"""How far does one short run come, on inputs that were changed?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from nndiag.checks.normalization.bench import Bench
    from nndiag.core.subject import Batch
    from nndiag.lab.training import TrainingCurve

STUCK = 0.95  # of the loss that knows only the targets' distribution


@dataclass(frozen=True)
class Trial:
    """One run with its curve; losses are told in units of the prior loss."""

    lr: float
    curve: TrainingCurve
    model: nn.Module
    prior: float

    @property
    def _late(self) -> list[float]:
        losses = self.curve.losses
        return [loss / self.prior for loss in losses[-max(3, len(losses) // 10) :]]

    @property
    def reached(self) -> float:
        """The loss over the last steps; infinite where the run diverged."""
        return math.inf if self.curve.diverged else sum(self._late) / len(self._late)

    @property
    def error(self) -> float:
        """Standard error of `reached`, from the scatter of the last steps."""
        late = self._late
        return math.sqrt(sum((loss - self.reached) ** 2 for loss in late) / max(len(late) - 1, 1) / len(late))

    @property
    def broken(self) -> bool:
        """Whether it diverged or learned nothing."""
        return self.curve.diverged or not self.reached < STUCK


def even(one: Trial, other: Trial) -> tuple[Trial, Trial]:
    """The two runs over as many steps as both took: the time budget may have ended one of them early."""
    if one.curve.diverged or other.curve.diverged:
        return one, other
    steps = min(one.curve.steps, other.curve.steps)
    return _first(one, steps), _first(other, steps)


def _first(run: Trial, steps: int) -> Trial:
    return replace(run, curve=replace(run.curve, losses=run.curve.losses[:steps], steps=steps))


def trial(  # noqa: PLR0913 - a training run has these parts
    bench: Bench, batches: tuple[Batch, ...], *, lr: float, steps: int, prior: float, seconds: float
) -> Trial:
    """Train one private copy."""
    from nndiag.lab.optimizers import make_optimizer
    from nndiag.lab.training import micro_train

    model = bench.make()
    assert bench.objective is not None
    optimizer = make_optimizer(bench.subject.training, model, lr=lr)
    seed = bench.subject.run.seed
    curve = micro_train(model, batches, bench.objective, optimizer, steps, seed=seed, seconds=seconds)
    return Trial(lr, curve, model, prior)


def changed(batch: Batch, change: Callable[[Any], Any], aims: Callable[[Any], Any] | None) -> Batch:
    """The batch with its inputs changed, and its targets where a map for them is given."""
    from nndiag.lab.firstlayer import with_input
    from nndiag.lab.forward import as_tensors

    made = with_input(batch, change)
    return replace(made, targets=aims(as_tensors(batch.targets))) if aims is not None else made


def ratio_interval(slow: Trial, fast: Trial) -> tuple[float, float] | None:
    """The 95 % interval of the ratio of the losses reached (delta method), from the scatter of the last steps."""
    if not math.isfinite(slow.reached) or not (fast.reached > 0 and slow.reached > 0):
        return None
    reach = math.exp(1.96 * math.hypot(slow.error / slow.reached, fast.error / fast.reached))
    ratio = slow.reached / fast.reached
    return ratio / reach, ratio * reach
