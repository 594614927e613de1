"""The table of a trial as a module: looked up, averaged, widened by a product, or standing beside a frozen one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from nndiag.lab.embedding.ids import ZipfIds

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

TRY_BYTES = 64 * 2**20  # the largest table that is tried only to extrapolate


class Memory:
    """Weights of all trials of a table, one over the other: fresh pages can cost more than the steps to be timed."""

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def table(self, rows: int, dim: int, dtype: torch.dtype, device: str) -> Tensor:
        """Return rows x dim weights; what was trained there before is lost."""
        held, size = self._held, rows * dim
        if held is None or held.numel() < size or held.dtype != dtype or held.device != torch.device(device):
            held = torch.zeros(size, dtype=dtype, device=device)
        if held.nbytes <= 2 * TRY_BYTES:
            self._held = held
        return held[:size].view(rows, dim)

    def release(self) -> None:
        """Give it back."""
        self._held = None


@dataclass(frozen=True, slots=True)
class Trial:
    """A table to be timed: everything but its number of rows."""

    dim: int
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    ids: ZipfIds
    sparse: bool = False
    pooled: int = 0  # vectors averaged into one after the lookup, 0: none
    bag: bool = False  # by an EmbeddingBag
    project: int = 0  # a product widens the vectors to this, 0: none
    frozen: int = 0  # rows of a fixed table that serves all ids but those of the trained rows
    clip: float | None = None
    accumulation: int = 1  # micro-batches per step
    set_to_none: bool = True
    buckets: str = ""  # inside DistributedDataParallel: "copied" gradients, or a "view" of the buckets
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    memory: Memory = field(default_factory=Memory)

    def load(self, rows: float) -> float:
        """What the time of a step grows with: all rows of the table, or, with sparse gradients, those of a batch."""
        return self.ids.unique(int(rows)) if self.sparse else float(rows)

    def weight(self, rows: int) -> Tensor:
        """Return memory for the weights, with what an earlier trial left there."""
        return self.memory.table(rows, self.dim, self.dtype, self.device)

    def module(self, rows: int) -> nn.Module:
        """Build the table with this many rows, and what stands around it."""
        looked = Looked(self, rows)
        return in_buckets(looked, view=self.buckets == "view") if self.buckets else looked


class Looked(nn.Module):
    """One table and what is done with its vectors at once."""

    def __init__(self, trial: Trial, rows: int) -> None:
        super().__init__()
        weight = trial.weight(rows)
        if trial.bag:
            self.table: nn.Module = nn.EmbeddingBag(rows, trial.dim, sparse=trial.sparse, mode="mean", _weight=weight)
        else:
            self.table = nn.Embedding(rows, trial.dim, sparse=trial.sparse, _weight=weight)
        self.wide: nn.Parameter | None = None
        if trial.project:
            self.wide = nn.Parameter(weight.new_full((trial.dim, trial.project), 1e-2))
        self._fixed = weight.new_zeros(min(trial.frozen, TRY_BYTES // weight[0].nbytes), trial.dim)
        self._mean = bool(trial.pooled) and not trial.bag
        self._rows = rows

    def forward(self, ids: Tensor) -> Tensor:
        """Look up; the ids of a frozen table that are not trained find its rows."""
        fixed = self._fixed
        vectors: Tensor = self.table(ids.remainder(self._rows) if len(fixed) else ids)
        if len(fixed):
            known = nn.functional.embedding(ids.remainder(len(fixed)), fixed)
            vectors = torch.where((ids < self._rows)[..., None], vectors, known)
        if self._mean:
            vectors = vectors.mean(1)
        return vectors if self.wide is None else vectors @ self.wide


def in_buckets(module: nn.Module, *, view: bool, unused: bool = False) -> nn.Module:
    """Wrap in DistributedDataParallel; the process group must stand.

    Args:
        module: With at least one trained parameter.
        view: Gradients are views of the buckets: nothing is copied in and out.
        unused: Look for parameters that a step leaves out.
    """
    return nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=view, find_unused_parameters=unused)
