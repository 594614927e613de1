"""A recipe half read: values under the names of `Recipe`, each with the place that said it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import UsageError

if TYPE_CHECKING:
    from nndiag.core.recipe import Schedule


@dataclass(slots=True)
class Draft:
    """What one source says. `values` were written; `defaults` are what the framework takes when nothing was."""

    place: str
    values: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)

    def say(self, **items: Any) -> None:
        """Keep what is known; None is not."""
        self.values.update({key: item for key, item in items.items() if item is not None})

    def assume(self, **items: Any) -> None:
        """Keep what the framework takes when nobody says otherwise."""
        self.defaults.update({key: item for key, item in items.items() if item is not None})


# A file of the framework that runs the loop knows how steps are counted; the launcher's file does not.
_LOOP = {"hf": 3, "lightning": 2, "deepspeed": 1, "accelerate": 0}


def join(drafts: list[Draft]) -> Draft:
    """Merge native files. Two that contradict each other are refused by name.

    Raises:
        UsageError: Two files give different values for the same thing.
    """
    joined = Draft(", ".join(draft.place for draft in drafts))
    told: dict[str, str] = {}
    for draft in drafts:
        for key, item in draft.values.items():
            if key not in joined.values:
                joined.values[key], told[key] = item, draft.place
            else:
                joined.values[key] = _agreed(key, (joined.values[key], told[key]), (item, draft.place))
    for draft in drafts:
        for key, item in draft.defaults.items():
            joined.defaults.setdefault(key, item)
    return joined


def _agreed(key: str, one: tuple[Any, str], other: tuple[Any, str]) -> Any:
    """Return what two files say together, each a value with its place."""
    (first, here), (second, there) = one, other
    if key == "framework":
        return max(first, second, key=lambda word: _LOOP.get(word, -1))
    if key == "optimizer_args":
        return {**second, **first}
    if key == "where_lr":
        return first  # a place to point at: any will do
    if key == "schedule" and first.managed != second.managed:
        return _handed_over(first, second)
    if first != second:
        raise UsageError(
            f"{here} says {key.replace('_', '-')} = {_short(first)}, {there} says {_short(second)}",
            hint=f"which holds? give --{key.replace('_', '-')} or only one of the files",
        )
    return first


def _handed_over(one: Schedule, other: Schedule) -> Schedule:
    """Return the schedule that runs where the Trainer is given DeepSpeed's: that one, its "auto" filled in."""
    trainer, own = (one, other) if one.managed else (other, one)
    return replace(
        own,
        warmup_steps=trainer.warmup_steps if own.warmup_steps is None else own.warmup_steps,
        warmup_ratio=trainer.warmup_ratio if own.warmup_steps is None else None,
        managed=own.total_steps is None,
    )


def _short(item: Any) -> str:
    return f"'{item.name}'" if hasattr(item, "name") else f"{item:g}" if isinstance(item, float) else str(item)
