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
            elif key == "framework":
                joined.values[key] = max(joined.values[key], item, key=lambda word: _LOOP.get(word, -1))
            elif key == "optimizer_args":
                joined.values[key] = {**item, **joined.values[key]}
            elif key == "where_lr":
                continue  # a place to point at: the first will do
            elif key == "schedule" and item.managed != joined.values[key].managed:
                joined.values[key] = _handed_over(item, joined.values[key])
            elif joined.values[key] != item:
                name = key.replace("_", "-")
                raise UsageError(
                    f"{told[key]} says {name} = {_short(joined.values[key])}, {draft.place} says {_short(item)}",
                    hint=f"which holds? give --{name} or only one of the files",
                )
    for draft in drafts:
        for key, item in draft.defaults.items():
            joined.defaults.setdefault(key, item)
    return joined


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
