"""The private copies that the examination runs on, and how much they are run."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError, NothingApplicableError

if TYPE_CHECKING:
    from nndiag.checks.init_symmetry import InitSymmetry
    from nndiag.checks.init_symmetry.live import Scene
    from nndiag.core.subject import Batch, Subject
    from nndiag.lab.bench import Bench

BATCHES = 4
ROWS = 32  # per step, unless the user's batches are given
STEPS_TO_COME = 80  # forward and backward passes of a usual examination
RESERVE = 1.0  # seconds kept for the report
LONG_SECONDS = 20.0  # that the training in two precisions may take


def make_bench(check: InitSymmetry, subject: Subject) -> Bench:
    """Make the copy that is judged: float64 where the model runs in it."""
    from nndiag.lab.bench_build import build_bench

    if subject.data is None or subject.model is None:
        raise NndiagError(
            "there are no inputs to run the model on", hint="give DATA, or --data synthetic:normal,shape=…"
        )
    deadline = time.monotonic() + subject.run.seconds_left - RESERVE
    bench = build_bench(
        subject.model,
        batches_of(check, subject),
        subject.training,
        seed=subject.run.seed,
        device=subject.run.device,
        seconds=math.inf if subject.training.batch_size else subject.run.seconds_left / STEPS_TO_COME,
    )
    bench.deadline = deadline
    return bench


def batches_of(check: InitSymmetry, subject: Subject, most: int = BATCHES, samples: int = 0) -> list[Batch]:
    """A few batches of the user's size, or of a size that keeps the steps cheap."""
    from nndiag.lab.forward import as_tensors, take

    assert subject.data is not None
    size = subject.training.batch_size or ROWS
    batches: list[Batch] = []
    rows = 0
    for batch in subject.data.batches(size):
        batches.append(take(as_tensors(batch), max(size, 2)))
        rows += rows_of(batches[-1])
        if len(batches) >= most or rows >= (samples or check.samples):
            break
    if not batches:
        raise NothingApplicableError("the data is empty", hint="give at least one batch")
    return batches


def rows_of(batch: Any) -> int:
    """Rows of a batch; 1 where that is not known."""
    from nndiag.lab.forward import batch_rows

    try:
        return batch_rows(batch)
    except NndiagError:
        return 1


class LongRun:
    """The training in two precisions that shows what rounding alone does."""

    def __init__(self, scene: Scene) -> None:
        """Choose its length: as many steps as the user said, or the default and more for what is about to part."""
        training = scene.subject.training
        rated, counted = training.lr is not None, training.steps is not None
        named = training.optimizer is not None
        first, most = (1, 1) if counted or not (named or rated) else (1, 3) if rated else (3, 10)
        self.steps, self.most = first * scene.steps, most * scene.steps
        self.refused = ""  # why it was not run
        self._scene = scene

    def bench(self) -> Bench | None:
        """A copy in the model's own precision, where the time suffices for the run."""
        left = self._scene.subject.run.seconds_left
        cost = 3 * self.most * self._scene.bench.seconds
        if cost > min(LONG_SECONDS, left / 3):
            self.refused = f"the long run in both precisions takes about {cost:.0f} s: raise --max-seconds"
            return None
        own = own_bench(self._scene)
        if own.dtype == self._scene.bench.dtype:
            self.refused = "the model runs in one precision only"
        return own


def own_bench(scene: Scene, most: int = BATCHES, samples: int = 0) -> Bench:
    """A second private copy, in the precision that the user trains in."""
    from nndiag.lab.bench_build import build_bench

    subject = scene.subject
    assert subject.model is not None
    bench = build_bench(
        subject.model,
        batches_of(scene.check, subject, most, samples),
        subject.training,
        seed=subject.run.seed,
        device=subject.run.device,
        exact=False,
        seconds=math.inf if subject.training.batch_size else subject.run.seconds_left / STEPS_TO_COME,
    )
    bench.deadline = scene.bench.deadline
    return bench
