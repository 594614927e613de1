"""How the measured batch is laid out over ranks and micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nndiag.checks.multigpu_lr.plan import Plan

MOST_RANKS, MOST_MICRO, MOST_ROWS = 8, 4, 1024  # enough to tell every factor apart
DEFAULT_RANKS, DEFAULT_PER_RANK = 4, 8
DIVIDES_BY_ACCUMULATION = ("accelerate", "deepspeed", "lightning", "hf")


@dataclass(frozen=True, slots=True)
class Layout:
    """Ranks, micro-batches and the rows of each shard, rank by rank."""

    ranks: int
    micro: int
    sizes: tuple[int, ...]  # ranks × micro shards, in the order of the rows
    real: bool  # a process group was asked for

    @property
    def rows(self) -> int:
        """Rows of the whole batch."""
        return sum(self.sizes)

    @property
    def words(self) -> str:
        """Say it: "4 ranks × 2 micro-batches"."""
        said = f"{self.ranks} {'rank' if self.ranks == 1 else 'ranks'}"
        return f"{said} × {self.micro} micro-batches" if self.micro > 1 else said


def layout(plan: Plan, *, ranks: int | None, world: int) -> Layout:
    """Choose it from the recipe: its devices, accumulation and per-device batch, bounded.

    Args:
        plan: The recipe.
        ranks: What --ranks asked for.
        world: Ranks that torchrun has started, 1 without it.
    """
    recipe = plan.recipe
    W = world if world > 1 else ranks or min(recipe.devices or DEFAULT_RANKS, MOST_RANKS)
    A = min(recipe.accumulation, MOST_MICRO)
    real = world > 1 or ranks is not None
    shards = recipe.shard_sizes
    if shards and len(shards) == W and max(shards) > 0:
        scale = min(1.0, MOST_ROWS / sum(shards))
        return Layout(W, 1, tuple(max(1, round(size * scale)) for size in shards), real)
    per = int(recipe.per_device_batch or DEFAULT_PER_RANK)
    per = max(1, min(per, MOST_ROWS // (W * A)))
    return Layout(W, A, (per,) * (W * A), real)


def fitted(plan: Layout, rows: int) -> Layout | None:
    """Return the same layout over as many rows as there are; None when a shard would be empty."""
    if rows >= plan.rows:
        return plan
    if len(set(plan.sizes)) == 1:
        per = rows // len(plan.sizes)
        return Layout(plan.ranks, plan.micro, (per,) * len(plan.sizes), plan.real) if per else None
    scale = rows / plan.rows
    sizes = tuple(int(size * scale) for size in plan.sizes)
    return Layout(plan.ranks, plan.micro, sizes, plan.real) if min(sizes) else None
