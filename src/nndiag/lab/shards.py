"""One rank's share of a step, as data-parallel training takes it: DDP, accumulation, reduction."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nndiag.lab.borrow import seeded
from nndiag.lab.gradients import flat_gradient
from nndiag.lab.objective import loss_of, resolve_objective

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nndiag.core.subject import Batch, Training


@dataclass(frozen=True)
class RankGradient:
    """A job for `run_ranks`: this rank's micro-batches through DDP, and what the optimizer would see."""

    model: nn.Module  # already in the dtype and mode that is to be measured
    training: Training
    whole: Batch  # a batch to infer the loss from
    micro_batches: Sequence[Sequence[Batch]]  # per rank, its micro-batches in order
    average_ranks: bool = True
    average_micro: bool = True
    seed: int = 0

    def __call__(self, rank: int, world: int) -> dict[str, Any]:
        """Return the aggregated gradient (rank 0 only) and the squared norms before and after."""
        objective = resolve_objective(self.training, self.model, self.whole)
        own = self.micro_batches[rank]
        model: nn.Module = self.model
        if self.average_ranks:
            model = DistributedDataParallel(self.model, find_unused_parameters=True)
        local = self._accumulate(model, objective, own)
        if not self.average_ranks:
            for item in self.model.parameters():
                if item.requires_grad:
                    item.grad = torch.zeros_like(item) if item.grad is None else item.grad
                    dist.all_reduce(item.grad)
        whole = flat_gradient(self.model)
        return {"gradient": whole if rank == 0 else whole[:0], "local": local, "global": float(whole @ whole)}

    def _accumulate(self, model: nn.Module, objective: Any, own: Sequence[Batch]) -> list[float]:
        """Backward through every micro-batch; only the last one lets DDP all-reduce.

        Returns:
            Squared norms of this rank's own micro-batch gradients where they were left alone by DDP.
        """
        norms = []
        before = 0.0
        with seeded(self.seed), torch.enable_grad():
            for i, batch in enumerate(own):
                last = i == len(own) - 1
                alone = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else None
                with alone or contextlib.nullcontext():
                    loss, _ = loss_of(model, batch, objective)
                    (loss / len(own) if self.average_micro else loss).backward()
                if alone is not None:
                    now = flat_gradient(self.model)
                    step = now - before
                    norms.append(float(step @ step))
                    before = now
        return norms
