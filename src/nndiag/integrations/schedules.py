"""A live scheduler's own numbers, under the keys of the [multigpu-lr] table."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "CosineAnnealingLR": lambda it: {"name": "cosine", "total-steps": it.T_max},
    "CosineAnnealingWarmRestarts": lambda it: {"name": "cosine-restarts", "cycle-steps": it.T_0},
    "StepLR": lambda it: {"name": "step", "decay-steps": it.step_size, "gamma": it.gamma},
    "MultiStepLR": lambda it: {"name": "multistep", "milestones": sorted(it.milestones.elements()), "gamma": it.gamma},
    "ExponentialLR": lambda it: {"name": "exponential", "gamma": it.gamma},
    "LinearLR": lambda it: {"name": "linear", "total-steps": it.total_iters} if it.end_factor < it.start_factor else {},
}
# transformers builds its schedules as LambdaLR over a partial of one of these
LAMBDAS = {
    "_get_linear_schedule_with_warmup_lr_lambda": "linear",
    "_get_cosine_schedule_with_warmup_lr_lambda": "cosine",
    "_get_constant_schedule_with_warmup_lr_lambda": "constant",
    "_get_cosine_with_hard_restarts_schedule_with_warmup_lr_lambda": "cosine-restarts",
}


def schedule_of(scheduler: Any) -> dict[str, Any] | None:
    """Return the table of a scheduler whose shape has a name; None when it has none."""
    scheduler = getattr(scheduler, "scheduler", scheduler)  # Accelerate wraps it
    reader = READERS.get(type(scheduler).__name__)
    if reader is not None:
        return reader(scheduler) or None
    for item in getattr(scheduler, "lr_lambdas", ())[:1]:
        if isinstance(item, functools.partial):
            name = LAMBDAS.get(item.func.__name__)
            counts = {
                "warmup-steps": item.keywords.get("num_warmup_steps"),
                "total-steps": item.keywords.get("num_training_steps"),
            }
            if name is not None:
                return {"name": name, **{key: value for key, value in counts.items() if value is not None}}
    return None
