"""How large is the batch, how many updates are there, before and after?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiag.core.findings import Where

if TYPE_CHECKING:
    from nndiag.core.recipe import Recipe

ADAMS = ("adam", "adamw", "adamax", "nadam", "radam", "lamb", "fusedadam", "adafactor", "lion", "rmsprop", "onebitadam")
RATE_FREE = ("prodigy", "dadapt", "dog", "ldog", "mechanic", "cocob", "dowg")  # they find their own rate: lr stays 1
LAYERWISE = ("lamb", "lars", "larc", "novograd")  # each layer's step is scaled by its weights' own norm


@dataclass(frozen=True, slots=True)
class Plan:
    """The recipe's arithmetic, as far as it is known."""

    recipe: Recipe

    @property
    def devices(self) -> int:
        """Processes in all; one where nobody said."""
        return self.recipe.devices or 1

    @property
    def k(self) -> float | None:
        """New batch over old batch."""
        recipe = self.recipe
        if not recipe.global_batch or not recipe.base_batch or recipe.framework == "easgd":
            return None
        return recipe.global_batch / recipe.base_batch

    @property
    def rate_ratio(self) -> float | None:
        """New learning rate over old one."""
        recipe = self.recipe
        return recipe.lr / recipe.base_lr if recipe.lr and recipe.base_lr else None

    @property
    def updates_per_epoch(self) -> float | None:
        """Updates in one pass over the data, as a real number."""
        recipe = self.recipe
        return recipe.dataset_size / recipe.global_batch if recipe.dataset_size and recipe.global_batch else None

    @property
    def updates(self) -> float | None:
        """Updates of the whole run."""
        recipe = self.recipe
        if recipe.updates:
            return float(recipe.updates)
        per = self.updates_per_epoch
        return per * recipe.epochs if per and recipe.epochs else None

    @property
    def epochs(self) -> float | None:
        """Passes over the data in the whole run."""
        recipe = self.recipe
        if recipe.epochs:
            return recipe.epochs
        per = self.updates_per_epoch
        return recipe.updates / per if per and recipe.updates else None

    @property
    def adaptive(self) -> bool | None:
        """Whether the optimizer divides by its own gradient's size; None where the optimizer is unknown."""
        name = self.recipe.optimizer
        if name is None:
            return None
        word = name.lower()
        if "sgd" in word or "momentum" in word or word == "lars":
            return False
        return any(known in word for known in ADAMS) or None

    @property
    def rate_free(self) -> bool:
        """Whether the optimizer estimates its own rate, so that no rule of scaling is about it."""
        return _named(self.recipe.optimizer, RATE_FREE)

    @property
    def layerwise(self) -> bool:
        """Whether the global rate only multiplies a rate that each layer has of its own."""
        return _named(self.recipe.optimizer, LAYERWISE)

    def where(self, key: str) -> Where:
        """Point at a key of the recipe."""
        return Where(module=key, file=self.recipe.sources[0] if self.recipe.sources else None)

    def when(self, updates: float) -> str:
        """Say a moment of the run: "epoch 12.5" where epochs are known, else "update 1250"."""
        per = self.updates_per_epoch
        return f"epoch {show(updates / per)}" if per else f"update {show(updates)}"


def _named(optimizer: str | None, known: tuple[str, ...]) -> bool:
    """Whether an optimizer's name, in whatever spelling, is one of these."""
    word = (optimizer or "").rsplit(":", 1)[-1].lower().replace("_", "").replace("-", "")
    return word.startswith(known)


def show(value: float) -> str:
    """Print a number with the digits a reader needs: 2.4e-3, 12.5, 136718."""
    if value == int(value) and abs(value) < 1e7:
        return str(int(value))
    if abs(value) >= 1000:
        return f"{value:.0f}"
    if abs(value) < 1e-2:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}"


def times(value: float) -> str:
    """Print a factor: ×8, ×1/8."""
    if value < 1 and abs(1 / value - round(1 / value)) < 0.02 / value:
        return f"×1/{round(1 / value)}"
    return f"×{show(value)}"
