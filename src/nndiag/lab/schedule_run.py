"""A real scheduler, stepped, and what it did to the rate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import SGD, lr_scheduler

from nndiag.core.errors import NndiagError
from nndiag.lab.watch.blame import users_fault

MOST_STEPS = 200_000
CYCLES = ("CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR", "ReduceLROnPlateau")
# How torch's own schedulers call their counts, under the names of `core.recipe.Schedule`.
COUNTS = {
    "CosineAnnealingLR": ("cosine", {"total_steps": "T_max"}),
    "LinearLR": ("linear", {"total_steps": "total_iters"}),
    "StepLR": ("step", {"decay_steps": "step_size", "gamma": "gamma"}),
    "MultiStepLR": ("multistep", {"milestones": "milestones", "gamma": "gamma"}),
    "ExponentialLR": ("exponential", {"gamma": "gamma"}),
    "CosineAnnealingWarmRestarts": ("cosine-restarts", {"cycle_steps": "T_0"}),
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """The rate before each step of a scheduler, over its peak."""

    rates: tuple[float, ...]
    kind: str  # class name
    raised: str = ""  # what it raised instead of the next step
    counts: tuple[tuple[str, Any], ...] = ()  # of torch's own schedulers, under our names
    cyclic: bool = False

    @property
    def peak(self) -> float:
        """Highest rate."""
        return max(self.rates)

    @property
    def warmup(self) -> int:
        """Steps until the peak, where it starts well below."""
        peak = self.peak
        first = next(i for i, rate in enumerate(self.rates) if rate >= 0.999 * peak)
        return first if self.rates[0] < 0.5 * peak else 0

    @property
    def end(self) -> int | None:
        """The step at which the rate has come down for good or for the first time; None when it never does."""
        peak, warmup = self.peak, self.warmup
        low = min(self.rates[warmup:])
        if low > 0.9 * peak:
            return None
        bound = low + 1e-4 * (peak - low)
        return next(i for i, rate in enumerate(self.rates) if i >= warmup and rate <= bound)


def record(factory: Callable[..., Any], lr: float, steps: int) -> Recorded:
    """Build the user's scheduler over a one-parameter optimizer and step it.

    Args:
        factory: Takes an optimizer, returns a scheduler.
        lr: Rate of the optimizer.
        steps: How often `step()` is called.

    Raises:
        NndiagError: The factory fails, returns something that has no `step`, or the rate is negative or no number.
    """
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    name = getattr(factory, "__name__", type(factory).__name__)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the optimizer was not stepped: it has nothing to do
        try:
            scheduler = factory(optimizer)
        except Exception as error:
            raise users_fault(f"the schedule {name}", error) from error
        if not callable(getattr(scheduler, "step", None)):
            raise NndiagError(
                f"{name} returned {type(scheduler).__name__}, not a scheduler",
                hint="return a torch.optim.lr_scheduler made from the optimizer it is given",
            )
        rates, raised = [float(optimizer.param_groups[0]["lr"])], ""
        for _ in range(min(steps, MOST_STEPS)):
            try:
                scheduler.step(0.0) if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else scheduler.step()
            except Exception as error:  # noqa: BLE001 - the user's scheduler may refuse to go on: that is a finding
                raised = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                break
            rates.append(float(optimizer.param_groups[0]["lr"]))
    wrong = next((i for i, rate in enumerate(rates) if not (math.isfinite(rate) and rate >= 0)), None)
    if wrong is not None:
        raise NndiagError(
            f"the schedule {name} gives a learning rate of {rates[wrong]:.6g} after {wrong} steps",
            hint="a rate is a finite number, not below 0",
        )
    kind = type(scheduler).__name__
    return Recorded(tuple(rates), kind, raised, _counts(scheduler, kind), cyclic=kind in CYCLES)


def _counts(scheduler: Any, kind: str) -> tuple[tuple[str, Any], ...]:
    shape, names = COUNTS.get(kind, ("", {}))
    if not shape or (kind == "LinearLR" and getattr(scheduler, "end_factor", 1.0) > 0.5):
        return ()  # a LinearLR that rises is a warm-up
    found: list[tuple[str, Any]] = [("name", shape)]
    for ours, theirs in names.items():
        value = getattr(scheduler, theirs, None)
        if ours == "milestones" and value is not None:
            value = tuple(float(item) for item in sorted(value.elements() if hasattr(value, "elements") else value))
        if value is not None:
            found.append((ours, value))
    return tuple(found)
