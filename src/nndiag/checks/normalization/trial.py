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
    """One run: the loss it reached in units of the prior loss, and its curve."""

    lr: float
    reached: float
    curve: TrainingCurve
    model: nn.Module

    @property
    def broken(self) -> bool:
        """Whether it diverged or learned nothing."""
        return self.curve.diverged or not self.reached < STUCK


def trial(  # noqa: PLR0913 - a training run has these parts
    bench: Bench, batches: tuple[Batch, ...], *, lr: float, steps: int, prior: float, seconds: float
) -> Trial:
    """Train one private copy."""
    from nndiag.lab.optimizers import make_optimizer
    from nndiag.lab.training import micro_train

    model = bench.make()
    assert bench.objective is not None
    curve = micro_train(
        model,
        batches,
        bench.objective,
        make_optimizer(bench.subject.training, model, lr=lr),
        steps,
        seed=bench.subject.run.seed,
        seconds=seconds,
    )
    late = curve.losses[-max(3, len(curve.losses) // 10) :]
    reached = math.inf if curve.diverged else sum(late) / len(late) / prior
    return Trial(lr, reached, curve, model)


def changed(batch: Batch, change: Callable[[Any], Any], aims: Callable[[Any], Any] | None) -> Batch:
    """The batch with its inputs changed, and its targets where a map for them is given."""
    from nndiag.lab.firstlayer import with_input
    from nndiag.lab.forward import as_tensors

    made = with_input(batch, change)
    return replace(made, targets=aims(as_tensors(batch.targets))) if aims is not None else made
