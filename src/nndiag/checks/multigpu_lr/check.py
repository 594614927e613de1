"""After going from one device to N: which of batch, gradient, rate, warm-up, schedule, statistics, order changed?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from nndiag.checks.multigpu_lr import constants, order, overview, rate, schedule, square_root, warmup
from nndiag.checks.multigpu_lr.plan import Plan
from nndiag.checks.multigpu_lr.stepping import stepping
from nndiag.core.errors import NothingApplicableError, UsageError
from nndiag.core.findings import Finding, Measurement, Skip
from nndiag.core.recipe import Recipe
from nndiag.science.scaling import gain

if TYPE_CHECKING:
    from nndiag.core.findings import Observation
    from nndiag.core.subject import Subject

MIN_REPLICA_BATCH = 16  # samples per device below which batch norm loses accuracy (Wu & He 2018, 1803.08494, figure 5)


@dataclass(frozen=True, slots=True)
class MultigpuLr:
    """Arithmetic of the recipe first; gradients, noise scale and training where a model is given."""

    name: ClassVar[str] = "multigpu-lr"

    ranks: int | None = None  # real process group of so many; None: emulated

    def examine(self, subject: Subject) -> Iterator[Observation]:
        """Judge the arithmetic, then whatever the model and the data allow."""
        if self.ranks is not None and self.ranks < 1:
            raise UsageError(f"ranks = {self.ranks} must be at least 1", hint="leave it out to emulate the ranks")
        if self.ranks is not None and subject.model is None:
            raise UsageError(f"ranks = {self.ranks} has nothing to run", hint="give --model and --data beside --ranks")
        recipe = subject.inputs.get("recipe")
        if recipe is None and subject.model is None:
            raise NothingApplicableError(
                "there is no recipe to judge",
                hint="give --gpus 8 --per-device-batch 32 --lr 3e-4 --base-lr 3e-4, a trainer's file, or a model",
            )
        plan = Plan(recipe or Recipe())
        yield from overview.facts(plan)
        seen: list[Finding] = []
        numbers: dict[str, float] = {}
        for item in self._everything(subject, plan, numbers):
            if isinstance(item, Finding):
                seen.append(item)
            if isinstance(item, Measurement):
                numbers[item.name] = item.value
            yield item
        yield from self._pictures(plan, seen, numbers)

    def _everything(self, subject: Subject, plan: Plan, numbers: dict[str, float]) -> Iterator[Observation]:
        """Measure first: a factor in the gradient can explain a rate that was left alone."""
        if subject.model is None:
            for code in ("MGL101", "MGL102", "MGL103", "MGL201", "MGL010"):
                yield Skip(code, "needs --model and --data")
        else:
            from nndiag.checks.multigpu_lr.measured import examine_model  # torch only where a model is

            yield from examine_model(self, subject, plan)
        module = subject.model.make() if subject.model is not None else None
        yield from self._arithmetic(plan, module, numbers.get("gradient_factor", 1.0))
        yield from warmup.momentum_correction(plan, _absorbs_rate(subject))

    def _arithmetic(self, plan: Plan, module: Any, factor: float) -> Iterator[Observation]:
        yield from rate.judge_rate(plan, factor)
        step, missing = stepping(plan)
        yield from warmup.judge_warmup(plan, step)
        yield from schedule.judge_schedule(step, missing)
        yield from square_root.judge_square_root(plan, factor)
        yield from constants.judge_constants(plan)
        yield from order.judge_shards(plan)
        yield from order.judge_sampler(plan)
        yield from order.judge_batchnorm(plan, module, smallest=MIN_REPLICA_BATCH)

    def _pictures(self, plan: Plan, seen: list[Finding], numbers: dict[str, float]) -> Iterator[Observation]:
        noise, base = numbers.get("noise_scale"), plan.recipe.base_batch
        multiplier = gain(plan.k, noise, base) if noise is not None and plan.k and base else None
        yield from overview.before_after(plan, seen)
        yield from square_root.rates_table(plan, multiplier)
        yield from constants.constants_table(plan)
        yield from overview.rate_against_batch(plan, noise)
        yield overview.answer(plan, seen, numbers.get("gradient_factor"))


def _absorbs_rate(subject: Subject) -> bool | None:
    """Try the user's own optimizer, where there is one; torch's are known to keep the rate outside their buffers."""
    own = subject.training.optimizer
    if subject.model is None or own is None or isinstance(own, str):
        return None
    from nndiag.lab.momentum import absorbs_rate

    return absorbs_rate(subject.training)
