"""One rank's share of a step, as data-parallel training takes it: DDP, accumulation, reduction."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nndiag.lab.borrow import seeded
from nndiag.lab.forward import batch_rows, main_output, mapped, move
from nndiag.lab.gradients import SKETCH, flat_gradient
from nndiag.lab.objective import loss_of, resolve_objective

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nndiag.core.subject import Batch, Training
    from nndiag.lab.objective import Objective


@dataclass(frozen=True)
class RankGradient:
    """A job for `run_ranks`: this rank's micro-batches through DDP, and what the optimizer would see."""

    model: nn.Module  # already in the dtype and mode that is to be measured
    training: Training
    whole: Batch  # a batch to infer the loss from
    micro_batches: Sequence[Sequence[Batch]]  # per rank, its micro-batches in order
    average_ranks: bool = True
    average_micro: bool = True
    unused: bool = False  # some parameter gets no gradient
    sketch: int = SKETCH  # coordinates kept of the gradient
    seed: int = 0
    device: str | None = None  # "cuda": this rank's own GPU; None: where the model is

    def __call__(self, rank: int, world: int) -> dict[str, Any]:  # noqa: ARG002 - every job gets both
        """Return the aggregated gradient (rank 0 only) and the squared norms before and after."""
        sample, own = self.whole, self.micro_batches[rank]
        if self.device is not None:
            self.model.to(self.device)
            sample, own = move(sample, self.device), [move(batch, self.device) for batch in own]
        objective = resolve_objective(self.training, self.model, sample)
        model: nn.Module = self.model
        if self.average_ranks:
            model = DistributedDataParallel(self.model, find_unused_parameters=self.unused)
        local = self._accumulate(model, objective, own)
        if not self.average_ranks:
            for item in self.model.parameters():
                if item.requires_grad:
                    item.grad = torch.zeros_like(item) if item.grad is None else item.grad
                    dist.all_reduce(item.grad)
        whole = flat_gradient(self.model, self.sketch)
        return {"gradient": whole if rank == 0 else whole[:0], "local": local, "global": float(whole @ whole)}

    def _accumulate(self, model: nn.Module, objective: Any, own: Sequence[Batch]) -> list[float]:
        """Backward through every micro-batch; only the last one lets DDP all-reduce.

        Returns:
            Squared norms of this rank's own micro-batch gradients where they were left alone by DDP.
        """
        norms = []
        before: Any = 0.0
        with seeded(self.seed), torch.enable_grad():
            for i, batch in enumerate(own):
                last = i == len(own) - 1
                alone = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else None
                with alone or contextlib.nullcontext():
                    loss, _ = loss_of(model, batch, objective)
                    (loss / len(own) if self.average_micro else loss).backward()  # type: ignore[no-untyped-call]
                if alone is not None:
                    now = flat_gradient(self.model, self.sketch)
                    step = now - before
                    norms.append(float(step @ step))
                    before = now
        return norms


def leaves_parameters_out(model: nn.Module, batch: Batch, objective: Any) -> bool:
    """Whether a backward pass reaches only some parameters, which DDP must be told."""
    model.zero_grad(set_to_none=True)
    with torch.enable_grad():
        loss, _ = loss_of(model, batch, objective)
        loss.backward()  # type: ignore[no-untyped-call]
    reached = [item.grad is not None for item in model.parameters() if item.requires_grad]
    model.zero_grad(set_to_none=True)
    return not all(reached)


@contextlib.contextmanager
def one_thread(model: nn.Module, small: int = 2_000_000) -> Iterator[None]:
    """Run a small model's many short steps in one thread: handing each of them to a pool costs more than it saves."""
    threads = torch.get_num_threads()
    if sum(item.numel() for item in model.parameters()) < small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class Devices:
    """So many emulated devices, and how they join their gradients."""

    count: int
    per_device: int  # samples on each
    average: bool = True  # False: gradients are summed over devices

    @property
    def batch(self) -> int:
        """Samples per update."""
        return self.count * self.per_device


def train_on(  # noqa: PLR0913, PLR0917 - a training run has these parts
    model: nn.Module,
    data: Batch,
    order: Sequence[int],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    devices: Devices,
    *,
    warmup: int = 0,
    seed: int = 0,
) -> list[float]:
    """Train a private model once through `order`, each update's batch dealt out to emulated devices.

    Batch norms normalise by each device's samples, as replicas do. A warm-up raises the rate linearly.

    Args:
        model: Trained in place.
        data: All samples.
        order: Rows in the order they are met; as many whole updates as fit are made.
        objective: The loss.
        optimizer: Over this model's parameters.
        devices: How an update is dealt out.
        warmup: Updates until the full rate.
        seed: Seeds dropout.

    Returns:
        The loss of each update's batch, mean over devices.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    losses = []
    model.train()
    with seeded(seed), torch.enable_grad():
        for step in range(len(order) // devices.batch):
            rows = torch.as_tensor(order[step * devices.batch : (step + 1) * devices.batch])
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, (step + 1) / warmup) if warmup else rate
            optimizer.zero_grad(set_to_none=True)
            total = 0.0
            for own in torch.split(rows, devices.per_device):
                loss, _ = loss_of(model, pick(data, own), objective)
                (loss / devices.count if devices.average else loss).backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach()) / devices.count
            losses.append(total)
            if not math.isfinite(total):
                break
            optimizer.step()
    return losses


def pick(data: Batch, rows: Tensor) -> Batch:
    """Return these rows of a batch; what has no row axis of its length stays."""
    length = batch_rows(data)
    picked: Batch = mapped(data, lambda item: item[rows] if item.dim() > 0 and item.shape[0] == length else item)
    return picked


def score(model: nn.Module, data: Batch, objective: Objective, *, size: int = 256) -> tuple[float, float | None]:
    """Return mean loss in eval mode, and accuracy where targets are class ids."""
    model.eval()
    losses, right, counted, rows = 0.0, 0, 0, batch_rows(data)
    with torch.no_grad():
        for part in torch.split(torch.arange(rows), size):
            batch = pick(data, part)
            loss, output = loss_of(model, batch, objective)
            losses += float(loss) * len(part)
            answer = main_output(output)
            if isinstance(batch.targets, Tensor) and batch.targets.dim() == 1 and answer.dim() == 2 and (
                not batch.targets.is_floating_point()
            ) and answer.shape[1] > 1:  # fmt: skip
                right += int((answer.argmax(1).cpu() == batch.targets.cpu()).sum())
                counted += len(part)
    return losses / rows, right / counted if counted else None
