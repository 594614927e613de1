"""Schedules under the names that nndiag.toml, torch and transformers give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nndiag.core.errors import UsageError, did_you_mean
from nndiag.core.recipe import SCHEDULES, STEP_UNITS, STEPPED_PER, Schedule
from nndiag.load.recipe.numbers import choice, counts, flag, number, only

KEYS = (
    "name", "total-steps", "warmup-steps", "milestones", "decay-steps", "decay-epochs", "gamma", "cycle-steps",
    "step-unit", "stepped-per",
)  # fmt: skip
TORCH_SCHEDULERS = {
    "CosineAnnealingLR": "cosine",
    "StepLR": "step",
    "MultiStepLR": "multistep",
    "ExponentialLR": "exponential",
    "CosineAnnealingWarmRestarts": "cosine-restarts",
    "ConstantLR": "constant",
    "ReduceLROnPlateau": "constant",
    "PolynomialLR": "linear",
}
ALIASES = {
    "constant-with-warmup": "constant",
    "cosine-with-restarts": "cosine-restarts",
    "cosine-annealing": "cosine",
    "polynomial": "linear",
    "multi-step": "multistep",
    **{name.lower(): shape for name, shape in TORCH_SCHEDULERS.items()},
}


def read_schedule(item: Any, place: str) -> Schedule | None:
    """Read the `schedule` of a [multigpu-lr] table: a table, or a name alone.

    Raises:
        UsageError: A key or a value is not understood.
    """
    if item is None:
        return None
    table: dict[str, Any] = {"name": item} if isinstance(item, str) else item
    if not isinstance(table, dict):
        raise UsageError(f"schedule = {item!r} in {place} must be a table", hint='schedule = { name = "cosine" }')
    table = {str(key).replace("_", "-"): value for key, value in table.items()}
    only(table, KEYS, f"schedule of {place}")
    name = schedule_name(table.get("name"), table)
    return Schedule(
        name,
        total_steps=number(table.get("total-steps"), "schedule.total-steps"),
        warmup_steps=number(table.get("warmup-steps"), "schedule.warmup-steps", strict=False),
        milestones=counts(table.get("milestones"), "schedule.milestones"),
        decay_steps=number(table.get("decay-steps"), "schedule.decay-steps"),
        decay_epochs=number(table.get("decay-epochs"), "schedule.decay-epochs"),
        gamma=number(table.get("gamma"), "schedule.gamma"),
        cycle_steps=number(table.get("cycle-steps"), "schedule.cycle-steps"),
        step_unit=choice(table.get("step-unit"), "schedule.step-unit", STEP_UNITS),
        stepped_per=choice(table.get("stepped-per"), "schedule.stepped-per", STEPPED_PER) or "",
        factory=_factory(name) if ":" in name else None,
    )


def schedule_name(word: Any, table: Mapping[str, Any]) -> str:
    """Return one of the known shapes, or the user's file.py:fn as it is."""
    if word is None:
        if "milestones" in table:
            return "multistep"
        return "step" if {"decay-steps", "decay-epochs"} & set(table) else "constant"
    if ":" in str(word):
        return str(word)
    name = str(word).strip().lower().replace("_", "-")
    name = ALIASES.get(name, name)
    if name not in SCHEDULES:
        raise UsageError(
            f"schedule.name does not know '{word}'",
            hint=did_you_mean(name, SCHEDULES, otherwise=f"one of {', '.join(SCHEDULES)}, or file.py:fn"),
        )
    return name


def _factory(target: str) -> Any:
    """Load the user's function that makes a scheduler from an optimizer."""
    from nndiag.load.usercode import resolve

    found = resolve(target, what="function").thing
    if not callable(found):
        raise UsageError(f"schedule.name '{target}' is no function", hint="a function of an optimizer")
    return found


def hf_name(word: Any) -> str:
    """Return the shape of a transformers scheduler; what is not drawn here is drawn as constant."""
    name = str(getattr(word, "value", word)).rsplit(".", 1)[-1].strip().lower().replace("_", "-")
    name = ALIASES.get(name, name)
    return name if name in SCHEDULES else "constant"


def from_torch_class(cls: str, params: Mapping[str, Any], *, stepped_per: str) -> Schedule:
    """Read a torch scheduler's class and arguments."""
    return Schedule(
        TORCH_SCHEDULERS[cls],
        total_steps=number(params.get("T_max", params.get("total_iters")), "lr_scheduler.T_max"),
        milestones=counts(params.get("milestones"), "lr_scheduler.milestones"),
        decay_steps=number(params.get("step_size"), "lr_scheduler.step_size"),
        gamma=number(params.get("gamma"), "lr_scheduler.gamma"),
        cycle_steps=number(params.get("T_0"), "lr_scheduler.T_0"),
        stepped_per=stepped_per,
    )


__all__ = ["KEYS", "TORCH_SCHEDULERS", "flag", "from_torch_class", "hf_name", "read_schedule", "schedule_name"]
