"""The learning rate as executed against the learning rate as intended, in closed form.

Plain Python on purpose (see `scaling`). The forms are those of torch.optim.lr_scheduler and of transformers;
the tests step the real ones beside them. `s` counts calls of scheduler.step(), `u` optimizer updates.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ALIKE = 0.98  # rises this close to the largest are the same rise on another place of the grid


@dataclass(frozen=True, slots=True)
class Curve:
    """A schedule in steps of its own counter."""

    name: str = "constant"
    total: float | None = None
    warmup: float = 0.0
    milestones: tuple[float, ...] = ()
    decay: float | None = None
    gamma: float = 0.1
    cycle: float | None = None
    periodic: bool = True
    table: tuple[float, ...] = ()  # name "recorded": the factor at each step, as a real scheduler gave it

    def factor(self, s: float) -> float:
        """Return the rate after `s` steps over the peak rate.

        Warm-up is linear from 0, as transformers' is. What follows is torch's closed form: StepLR, MultiStepLR,
        ExponentialLR, LinearLR to 0, CosineAnnealingLR (which rises again past its end) and
        CosineAnnealingWarmRestarts.
        """
        if self.table:
            return self.table[min(max(int(s + 1e-9), 0), len(self.table) - 1)]
        if s < self.warmup:
            return s / self.warmup
        after = s - self.warmup
        shape = _SHAPES.get(self.name, _constant)
        return shape(self, s, after)

    @property
    def end(self) -> float | None:
        """The step at which the rate is meant to have arrived; None when it has no end."""
        if self.name in ("linear", "cosine", "recorded"):
            return self.total
        if self.name == "multistep" and self.milestones:
            return max(self.milestones)
        return None


def _constant(_curve: Curve, _s: float, _after: float) -> float:
    return 1.0


def _span(curve: Curve) -> float:
    return max(1.0, (curve.total or 1.0) - curve.warmup)


def _linear(curve: Curve, _s: float, after: float) -> float:
    return max(0.0, 1 - after / _span(curve))


def _cosine(curve: Curve, _s: float, after: float) -> float:
    share = after / _span(curve)
    return 0.5 * (1 + math.cos(math.pi * (share if curve.periodic else min(1.0, share))))


def _restarts(curve: Curve, _s: float, after: float) -> float:
    cycle = curve.cycle or _span(curve)
    return 0.5 * (1 + math.cos(math.pi * (after % cycle) / cycle))


def _step(curve: Curve, s: float, _after: float) -> float:
    return float(curve.gamma ** math.floor(s / curve.decay)) if curve.decay else 1.0


def _multistep(curve: Curve, s: float, _after: float) -> float:
    return float(curve.gamma ** bisect_right(sorted(curve.milestones), s))


def _exponential(curve: Curve, s: float, _after: float) -> float:
    return float(curve.gamma ** (s / (curve.decay or 1.0)))


_SHAPES: dict[str, Callable[[Curve, float, float], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "cosine-restarts": _restarts,
    "step": _step,
    "multistep": _multistep,
    "exponential": _exponential,
}


def steps_per_update(
    stepped_per: str, *, devices: int, accumulation: int, updates_per_epoch: float | None, split: bool = False
) -> float | None:
    """Return how many scheduler steps one optimizer update brings.

    Args:
        stepped_per: "optimizer", "micro-batch", "epoch" or "process". "process" is Accelerate's prepared scheduler:
            num_processes steps for each update unless split_batches (accelerate.scheduler.AcceleratedScheduler).
        devices: W.
        accumulation: A.
        updates_per_epoch: Needed for "epoch" only.
        split: Accelerate's split_batches.

    Returns:
        Steps per update; None when "epoch" is asked without the size of an epoch.
    """
    if stepped_per == "micro-batch":
        return float(accumulation)
    if stepped_per == "process":
        return 1.0 if split else float(devices)
    if stepped_per == "epoch":
        return 1 / updates_per_epoch if updates_per_epoch else None
    return 1.0


def samples_per_count(  # noqa: PLR0913 - the parts of a recipe
    unit: str, *, per_device: float, devices: int, accumulation: int, sharded: bool, samples: float | None
) -> float | None:
    """Return how many samples one count of a schedule was meant to cover.

    Args:
        unit: "optimizer" (one update), "dataloader" (one batch of the loader) or "epoch".
        per_device: Samples per device and micro-batch.
        devices: W.
        accumulation: A.
        sharded: Whether the loader whose batches were counted is already one rank's share (a DistributedSampler),
            so that one of its batches stands for W batches of the data.
        samples: N, for "epoch".
    """
    if unit == "epoch":
        return samples
    if unit == "dataloader":
        return per_device * (devices if sharded else 1)
    return per_device * devices * accumulation


@dataclass(frozen=True, slots=True)
class Rebound:
    """A rate that came down and went up again."""

    low_at: float  # position of the lowest point
    low: float  # its value
    high_at: float  # position of the highest point after it
    high: float
    rise: float  # (high - low) / peak


def _top(y: Sequence[float]) -> int:
    """Return where the first climb to the peak ends. A periodic curve meets its peak again, on a grid even closer."""
    peak = max(y)
    at = next(i for i, value in enumerate(y) if value >= 0.99 * peak)
    while at + 1 < len(y) and y[at + 1] > y[at]:
        at += 1
    return at


def rebound(x: Sequence[float], y: Sequence[float]) -> Rebound | None:
    """Return the largest rise after the peak has been left, or None when the curve never rises again.

    The warm-up's rise comes before the peak and does not count. Of rises that are alike, as a periodic curve has them,
    it is the first.

    Args:
        x: Positions, ascending.
        y: Rates at these positions.
    """
    if not y or max(y) <= 0:
        return None
    peak = max(y)
    low = high = _top(y)
    rises: list[tuple[int, int]] = []
    for i in range(low, len(y)):
        if y[i] < y[low]:
            rises.append((low, high))
            low = high = i
        elif y[i] > y[high]:
            high = i
    rises.append((low, high))
    sizes = [(y[top] - y[bottom]) / peak for bottom, top in rises]
    largest = max(sizes)
    if largest <= 1e-9:
        return None
    first = next(i for i, size in enumerate(sizes) if size >= ALIKE * largest)
    low, high = rises[first]
    return Rebound(x[low], y[low], x[high], y[high], sizes[first])


def arrival(x: Sequence[float], y: Sequence[float], share: float = 0.01) -> float | None:
    """Return where the rate first falls to `share` of its peak; None when it never does."""
    if not y or max(y) <= 0:
        return None
    peak = max(y)
    start = _top(y)
    return next((x[i] for i in range(start, len(y)) if y[i] <= share * peak), None)


def grid(end: float, points: int = 201) -> list[float]:
    """Return evenly spaced positions from 0 to `end`, both included."""
    return [end * i / (points - 1) for i in range(points)]
